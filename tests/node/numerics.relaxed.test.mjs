/** The numeric tests on the relaxed modules, by the newer Node: see heddle.mjs. */
import './lora.test.mjs';
import './quantised.test.mjs';
import './trace.test.mjs';
import './training.test.mjs';
