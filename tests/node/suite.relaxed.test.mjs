/**
 * The tests that run on every module, by a Node that has relaxed SIMD, on the relaxed modules: tools/test.mjs gives this file to that
 * Node. Importing a file of tests registers them.
 */
import './build-json.test.mjs';
import './bundles.test.mjs';
import './cache.test.mjs';
import './chat-templates.test.mjs';
import './chat.test.mjs';
import './checklist-layers.test.mjs';
import './embeddings.test.mjs';
import './entries.test.mjs';
import './estimate.test.mjs';
import './families.test.mjs';
import './generate.test.mjs';
import './generic-parts.test.mjs';
import './generic.test.mjs';
import './gguf-write.test.mjs';
import './gguf.test.mjs';
import './hostile.test.mjs';
import './http.test.mjs';
import './inspect.test.mjs';
import './json-schema.test.mjs';
import './lazy.test.mjs';
import './lifetimes.test.mjs';
import './loom-lacking.test.mjs';
import './loom-reader.test.mjs';
import './mlx.test.mjs';
import './one-call.test.mjs';
import './persistence.test.mjs';
import './precision.test.mjs';
import './quantised-bundles.test.mjs';
import './ranges.test.mjs';
import './sampling.test.mjs';
import './simple-text.test.mjs';
import './steps.test.mjs';
import './stories.test.mjs';
import './threads.test.mjs';
import './torch-files.test.mjs';
import './torch-layers.test.mjs';
import './trace.test.mjs';
import './training.test.mjs';
import './transformer.test.mjs';
import './together.test.mjs';
import './tween.test.mjs';
import './validate.test.mjs';
import './weights.test.mjs';
import './worker.test.mjs';
