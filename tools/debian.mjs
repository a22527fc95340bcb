/**
 * Debian and Ubuntu packages without root: apt with directories of its own, so the system stays as it is.
 *
 * The machine's own package source is the only one used; just the suite's name changes. So no address is written here,
 * and a mirror or proxy that the machine is set up with goes on working.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Stop, ask, onPath, run } from './step.mjs';

/** { ID, VERSION_CODENAME, … } of the distribution; empty elsewhere. */
export function osRelease() {
  if (!existsSync('/etc/os-release')) return {};
  const lines = readFileSync('/etc/os-release', 'utf8').split('\n');
  return Object.fromEntries(lines.filter((line) => line.includes('=')).map((line) => {
    const at = line.indexOf('=');
    return [line.slice(0, at), line.slice(at + 1).replace(/^"|"$/g, '')];
  }));
}

export const isRoot = process.getuid?.() === 0;

/** The suites to look in for newer software than the machine's own, newest first. */
export function newerSuites() {
  const { ID } = osRelease();
  if (!onPath('apt-get') || !onPath('dpkg-deb')) return [];
  if (ID === 'debian') return ['forky', 'trixie'];
  if (ID === 'ubuntu') return ['resolute', 'questing'];
  return [];
}

/** The version of `name` that the machine's own package source offers, or ''. */
export async function candidateVersion(name) {
  if (!onPath('apt-cache')) return '';
  const policy = await ask('apt-cache', ['policy', name]);
  return /Candidate: (?:\d+:)?(\d\S*)/.exec(policy)?.[1] ?? '';
}

/** Installs packages into the system. Only as root. */
export async function aptInstall(...names) {
  const install = () => run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', '-o', 'DPkg::Lock::Timeout=300', ...names], {
    env: { DEBIAN_FRONTEND: 'noninteractive' },
  });
  try {
    await install();
  } catch {
    await run('apt-get', ['update', '-qq', '-o', 'DPkg::Lock::Timeout=300']);
    await install();
  }
}

/** One suite of the machine's own distribution, read through apt directories below `folder`. */
export class PrivateSuite {
  constructor(suite, folder) {
    this.suite = suite;
    this.folder = folder;
    this.options = [
      'Dir::State::lists=' + join(folder, 'lists'),
      'Dir::State::status=' + join(folder, 'status'),
      'Dir::Cache=' + join(folder, 'cache'),
      'Dir::Etc::sourceparts=' + join(folder, 'sources'),
      'Dir::Etc::sourcelist=/dev/null',
      'Debug::NoLocking=1',
      'Acquire::Languages=none',
      'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false',
      // The download user of a root's apt may not enter a private cache folder.
      ...(isRoot ? ['APT::Sandbox::User=root'] : []),
    ].flatMap((option) => ['-o', option]).concat('-c', join(folder, 'apt.conf'));
  }

  /** Fetches the package lists. Throws when the machine's package source does not serve the suite. */
  async open() {
    rmSync(this.folder, { recursive: true, force: true });
    for (const part of ['lists/partial', 'cache/archives/partial', 'sources', 'files']) {
      mkdirSync(join(this.folder, part), { recursive: true });
    }
    writeFileSync(join(this.folder, 'status'), '');
    // What the system does after an update (clearing its caches, for one) is none of ours, and fails without root.
    writeFileSync(join(this.folder, 'apt.conf'), '#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n');
    writeFileSync(join(this.folder, 'sources/suite.sources'), sourceStanza(this.suite));
    await run('apt-get', [...this.options, 'update', '-qq']);
    return this;
  }

  close() {
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** The fields of a package's record, as apt-cache prints them ({} when the suite lacks it). */
  async record(name) {
    return fields(await ask('apt-cache', [...this.options, 'show', '--no-all-versions', name]));
  }

  /** The upstream version of a source package ("1.7.19"), or ''. */
  async sourceVersion(name) {
    const record = fields(await ask('apt-cache', [...this.options, 'showsrc', '--only-source', name]));
    return (record.Version ?? '').replace(/^\d+:/, '').replace(/-[^-]*$/, '');
  }

  /** The names of everything that apt would install for `names` on an empty system. */
  async closure(...names) {
    const plan = await run('apt-get', [...this.options, 'install', '-s', '--no-install-recommends', ...names]);
    return [...plan.output.matchAll(/^Inst (\S+)/gm)].map((match) => match[1].replace(/:.*/, ''));
  }

  /** Downloads packages, signatures checked by apt, and unpacks them into `prefix`. Nothing of them is run. */
  async unpack(prefix, names) {
    const files = join(this.folder, 'files');
    await run('apt-get', [...this.options, 'download', '-qq', ...names], { cwd: files });
    for (const file of readdirSync(files)) await run('dpkg-deb', ['-x', join(files, file), prefix]);
  }

  /** Downloads a source package and returns the path of its upstream archive. */
  async source(name) {
    const files = join(this.folder, 'files');
    await run('apt-get', [...this.options, 'source', '-qq', '--download-only', name], { cwd: files });
    const archive = readdirSync(files).find((file) => file.includes('.orig.tar.') && !file.endsWith('.asc'));
    return join(files, archive);
  }
}

/** The machine's main package source as a deb822 stanza that names `suite` instead. */
function sourceStanza(suite) {
  const own = ownSource();
  if (!own) throw new Stop('apt has no package source for this distribution');
  return [
    'Types: deb deb-src', `URIs: ${own.uris}`, `Suites: ${suite}`, `Components: ${own.components}`,
    ...(own.signedBy ? [`Signed-By: ${own.signedBy}`] : []), '',
  ].join('\n');
}

/** The source that serves the distribution's own suite, from either of apt's two file formats. */
function ownSource() {
  const { VERSION_CODENAME: codename } = osRelease();
  return sourceEntries().find((entry) => entry.suites.includes(codename) && entry.components.split(' ').includes('main'));
}

function sourceEntries() {
  const folder = '/etc/apt/sources.list.d';
  const files = ['/etc/apt/sources.list', ...(existsSync(folder) ? readdirSync(folder).sort().map((name) => join(folder, name)) : [])];
  return files.filter((file) => existsSync(file) && /\.(list|sources)$/.test(file)).flatMap((file) => {
    const text = readFileSync(file, 'utf8').replace(/^#.*\n?/gm, '');
    return file.endsWith('.list') ? oneLineEntries(text) : stanzaEntries(text);
  });
}

function stanzaEntries(text) {
  return text.split(/\n\s*\n/).map(fields).filter((stanza) => stanza.URIs && stanza.Enabled !== 'no').map((stanza) => ({
    uris: stanza.URIs, suites: (stanza.Suites ?? '').split(/\s+/), components: stanza.Components ?? '', signedBy: stanza['Signed-By'],
  }));
}

function oneLineEntries(text) {
  return [...text.matchAll(/^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)$/gm)].map(([, options = '', uris, suite, components]) => ({
    uris, suites: [suite], components, signedBy: /signed-by=(\S+)/.exec(options)?.[1],
  }));
}

/** "Key: value" lines, continuation lines kept in the value. */
function fields(text) {
  const record = {};
  for (const [, key, value] of text.matchAll(/^([A-Za-z0-9-]+): *(.*(?:\n[ \t].*)*)/gm)) record[key] ??= value;
  return record;
}
