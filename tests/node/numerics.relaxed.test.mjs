/** LoRA, conversion and quantisation on the relaxed modules, by the newer Node: see heddle.mjs; suite.relaxed.test.mjs and suite-files.relaxed.test.mjs have the other files. */
import './conversions.test.mjs';
import './lora.test.mjs';
import './quantised.test.mjs';
