/**
 * What esbuild does to the compiled package. tools/build.mjs calls it after the TypeScript compiler.
 *
 * dist/tokenizer.js gets the tokenizer library inside: a page without a bundler cannot resolve the names of packages, and a worker in
 * it not even with an import map. Everything else stays as it is, so that all entries share one class of errors, models and runtimes.
 */
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { program, projectDir } from './step.mjs';

/** Bundles in place; what is bundled already stays as it is. */
export async function bundle(distDir = join(projectDir, 'dist')) {
  const file = join(distDir, 'tokenizer.js');
  if (!/from ['"]@huggingface\/tokenizers['"]/.test(readFileSync(file, 'utf8'))) return;
  const esbuild = await import('esbuild');
  await esbuild.build({
    entryPoints: [file], outfile: file, allowOverwrite: true, bundle: true, format: 'esm', platform: 'neutral', target: 'es2022',
    mainFields: ['module', 'main'], absWorkingDir: projectDir, logLevel: 'silent', plugins: [keepOwnImports(file)],
    banner: { js: '/* Contains @huggingface/tokenizers, Copyright The HuggingFace Team, Apache License 2.0: tokenizer.LICENSE */' },
  });
  copyFileSync(join(projectDir, 'node_modules/@huggingface/tokenizers/LICENSE'), join(distDir, 'tokenizer.LICENSE'));
}

/** An esbuild plugin: what `importer` imports by a relative path stays an import. */
function keepOwnImports(importer) {
  return {
    name: 'keep-own-imports',
    setup(bundler) {
      bundler.onResolve({ filter: /^\.\// }, (args) => (args.importer === importer ? { path: args.path, external: true } : undefined));
    },
  };
}

program(import.meta.url, () => bundle());
