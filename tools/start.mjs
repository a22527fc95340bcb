/**
 * `npm start`: from a fresh clone to something to look at. Sets up, builds the package, tells one story in
 * the terminal, then serves the demo.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { build } from './build.mjs';
import { serve, serveOptions } from './serve.mjs';
import { program, projectDir, run } from './step.mjs';

program(import.meta.url, async (args) => {
  const options = serveOptions(args);
  await build({ wasm: true, ts: true });
  const story = join(projectDir, 'js/story.mjs');
  if (existsSync(story)) await run(process.execPath, [story], { show: true });
  const { address } = await serve(options);
  console.log(`\nheddle: the demo is at ${address}   (Ctrl-C ends it)`);
});
