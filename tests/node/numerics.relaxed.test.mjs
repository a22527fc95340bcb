/** LoRA, conversion and quantisation on the relaxed modules, by the newer Node: see heddle.mjs; suite.relaxed.test.mjs has the other files. */
import './conversions.test.mjs';
import './lora.test.mjs';
import './quantised.test.mjs';
