/**
 * `npm run dev`: serves the demo and builds again whenever something under src/, ts/ or demo/ changes. A build that fails
 * says why, and the server goes on with what was built before.
 */
import { existsSync, watch } from 'node:fs';
import { join } from 'node:path';
import { build } from './build.mjs';
import { serve, serveOptions } from './serve.mjs';
import { Stop, program, projectDir } from './step.mjs';

/** Editors write a file in several steps; what comes within this time is one change. */
const settleMs = 150;

/** Calls `work` after changes, never twice at once; changes during a call lead to one more. */
function afterChanges(work) {
  let timer = null;
  let running = false;
  let again = false;
  const start = async () => {
    again = true;
    if (running) return;
    running = true;
    while (again) {
      again = false;
      await work();
    }
    running = false;
  };
  return () => {
    clearTimeout(timer);
    timer = setTimeout(start, settleMs);
  };
}

async function buildAndReport() {
  try {
    await build({ wasm: true, ts: true });
  } catch (error) {
    console.error(error instanceof Stop ? error.message : error);
  }
}

program(import.meta.url, async (args) => {
  const { address } = await serve(serveOptions(args));
  await buildAndReport();
  const changed = afterChanges(buildAndReport);
  for (const name of ['src', 'ts', 'demo']) {
    const folder = join(projectDir, name);
    if (existsSync(folder)) watch(folder, { recursive: true }, changed);
  }
  console.log(`heddle: serving ${address}, building on change   (Ctrl-C ends it)`);
});
