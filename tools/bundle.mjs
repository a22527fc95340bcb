/**
 * What esbuild does to the compiled package. tools/build.mjs calls it after the TypeScript compiler.
 *
 *   dist/tokenizer-library.js   gets the tokenizer library inside: a page without a bundler cannot resolve the names of packages, and a worker in it
 *                               not even with an import map
 *   dist/jinja.js               gets the template engine inside, likewise; it is loaded with the first conversation
 *   dist/inline.js              gets the plain simd128 module inside, for hosts that can fetch nothing
 *   dist/heddle.min.js          is all of dist/index.js in one small file, for pages without a bundler: one request beside the module's, not one a file
 *
 * Everything else stays as it was compiled, and all but the last keep their relative imports, so that all entries share one class of errors,
 * models and runtimes.
 */
import { copyFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Stop, projectDir } from './step.mjs';

/** The files of the package that are bundled rather than copied. */
export const bundled = ['tokenizer-library.js', 'jinja.js', 'inline.js'];

/** The package's file that gets a library inside, and the library. */
const libraries = [
  ['tokenizer-library', '@huggingface/tokenizers', 'Copyright The HuggingFace Team, Apache License 2.0'],
  ['jinja', '@huggingface/jinja', 'Copyright (c) 2023 Hugging Face, MIT License'],
];

/** Writes the bundled files of dist/ from the compiler's output. */
export async function bundle({ compiledDir, distDir, wasmDir }) {
  const esbuild = await import('esbuild');
  const common = {
    bundle: true, format: 'esm', platform: 'neutral', target: 'es2022', mainFields: ['module', 'main'], absWorkingDir: projectDir, logLevel: 'silent',
    external: ['./*'],
  };
  for (const [file, library, notice] of libraries) {
    await esbuild.build({
      ...common, entryPoints: [join(compiledDir, `${file}.js`)], outfile: join(distDir, `${file}.js`), external: [], plugins: [keepOwnImports],
      banner: { js: `/* Contains ${library}, ${notice}: ${file}.LICENSE */` },
    });
    copyFileSync(join(projectDir, 'node_modules', library, 'LICENSE'), join(distDir, `${file}.LICENSE`));
  }
  await esbuild.build({
    ...common, entryPoints: [join(compiledDir, 'inline.js')], outfile: join(distDir, 'inline.js'),
    plugins: [embedModule(join(wasmDir, 'heddle-simd128.wasm'))],
  });
  await esbuild.build({
    ...common, entryPoints: [join(distDir, 'index.js')], outfile: join(distDir, 'heddle.min.js'), external: [], minify: true, keepNames: true,
    banner: { js: `/* Heddle, MIT License. ${libraries.map(([file, library, notice]) => `Contains ${library}, ${notice}: ${file}.LICENSE`).join('. ')} */` },
  });
}

/** An esbuild plugin: what the entry imports by a relative path stays an import; the library's own files do not. */
const keepOwnImports = {
  name: 'keep-own-imports',
  setup(bundler) {
    bundler.onResolve({ filter: /^\.\// }, (args) => (args.importer.includes('node_modules') ? undefined : { path: args.path, external: true }));
  },
};

/** An esbuild plugin: an import of 'heddle-….wasm' becomes the bytes of `file`, as base64 in the bundle. */
function embedModule(file) {
  return {
    name: 'embed-module',
    setup(bundler) {
      bundler.onResolve({ filter: /^heddle-.*\.wasm$/ }, () => ({ path: file, namespace: 'embedded' }));
      bundler.onLoad({ filter: /.*/, namespace: 'embedded' }, () => {
        if (!existsSync(file)) throw new Stop('heddle/inline embeds build/wasm/heddle-simd128.wasm: build wasm before ts');
        return { contents: readFileSync(file), loader: 'binary' };
      });
    },
  };
}
