/**
 * The tests that run on every module, by a Node that has relaxed SIMD, on the relaxed modules: tools/test.mjs gives this file to that
 * Node. Importing a file of tests registers them. Models, layers and texts are here; suite-files.relaxed.test.mjs has what reads, fetches, keeps and
 * writes, numerics.relaxed.test.mjs adapters, conversion and quantisation: about as long each of the first two, so that two processors are busy to the end.
 */
import './chat.test.mjs';
import './chat-templates.test.mjs';
import './checklist-layers.test.mjs';
import './embeddings.test.mjs';
import './experts.test.mjs';
import './families.test.mjs';
import './generate.test.mjs';
import './json-schema.test.mjs';
import './lifetimes.test.mjs';
import './loom-lacking.test.mjs';
import './one-call.test.mjs';
import './persistence.test.mjs';
import './sampling.test.mjs';
import './simple-text.test.mjs';
import './steps.test.mjs';
import './stories.test.mjs';
import './threads.test.mjs';
import './together.test.mjs';
import './torch-layers.test.mjs';
import './trace.test.mjs';
import './training.test.mjs';
import './transformer.test.mjs';
import './tween.test.mjs';
import './validate.test.mjs';
import './worker.test.mjs';
