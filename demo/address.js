/** address.js: a model by its address: what somebody typed becomes a URL, and who asks for much is told first how much it is. */
import { byId, bytes, counted, element } from './page.js';

/** Downloads of more bytes than this are agreed upon first. */
const muchBytes = 200e6;

const ways = { keep: 'As in the file', q8_0: 'In 8 bits' };

/** The address that was meant: a URL, one below this page, or a model's name on Hugging Face (`org/name`). Throws an Error in words. */
export function addressOf(text) {
  const typed = text.trim();
  // A host without its scheme would be taken for a path of this page, or for a name. A file's name has a dot, and no slash behind it.
  if (/^([\w-]+(\.[\w-]+)+(:\d+)?\/|[\w.-]+:\d+(\/|$))/.test(typed) && !/^(www\.)?huggingface\.co\//.test(typed)) {
    const scheme = /^(localhost|127\.)/.test(typed) ? 'http' : 'https';
    throw new Error(`“${typed.slice(0, 60)}” lacks its scheme: write ${scheme}://${typed.slice(0, 60)}, or ./ before a path of this page.`);
  }
  const isName = /^[\w.-]+\/[\w.-]+$/.test(typed) && !/\.(gguf|safetensors|json|bin|pt|pth)$/i.test(typed);
  const address = isName ? `https://huggingface.co/${typed}` : typed.replace(/^(www\.)?(?=huggingface\.co\/)/, 'https://');
  const url = typed !== '' && URL.canParse(address, document.baseURI) ? new URL(address, document.baseURI) : undefined;
  if (url && /^https?:$/.test(url.protocol)) return url.href;
  throw new Error(typed === '' ? 'There is no address yet.' : `“${typed.slice(0, 60)}” is no address: it begins with https://, or is a name on Hugging Face.`);
}

/** An error of the network as who typed an address can use it; any other as it is. */
export function inWords(error) {
  const url = /^cannot fetch (.*?): /.exec(error.message ?? '')?.[1];
  if (url === undefined) return error;
  return new Error(`${url} could not be fetched: the server does not answer, or does not allow this page to read it (CORS).`, { cause: error });
}

/** What to call what is there: `org/name`, or the last part of the address. */
export function nameOf(address) {
  const { pathname, hostname } = new URL(address);
  const parts = pathname.split('/').filter((part) => part !== '');
  const revision = parts.findIndex((part) => part === 'resolve' || part === 'tree');
  const isFolder = pathname.endsWith('/') || hostname === 'huggingface.co' && (revision < 0 || parts[revision] === 'tree');
  if (isFolder && (revision > 0 || hostname === 'huggingface.co')) return readable(parts.slice(0, 2).join('/'));
  return readable(parts.at(-1) ?? hostname);
}

function readable(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// ---- How much it is ----

/**
 * Resolves to what the weights are to be kept as: at once to `chosen` for what is little, else, after `ask` has shown the question, to
 * what somebody presses. Rejects with the signal's reason.
 */
export async function agreeOn(runtime, address, chosen, signal, ask) {
  const much = await askFor(runtime, address, signal);
  const fitting = much && waysToLoad(much.estimate);
  // What fits in no way is refused by the load itself, which says why, before anything is fetched.
  if (!fitting || fitting.length === 0) return chosen;
  const answer = choice(address, much, fitting, chosen, signal);
  const focused = document.activeElement;
  ask();
  byId('types').disabled = true; // the question is the same one
  byId('estimate-ways').querySelector('.primary, button').focus();
  return answer.finally(() => {
    byId('types').disabled = false;
    focused?.focus({ preventScroll: true });
  });
}

/** How many bytes come and what they take; undefined for little, and for bundles, whose weights are text. */
async function askFor(runtime, address, signal) {
  const estimate = await runtime.estimate(address, { signal }).catch((error) => {
    if (error.code !== 'unsupported') throw error;
  });
  if (!estimate || estimate.weights < muchBytes) return undefined;
  const download = (await runtime.inspect(address, { signal })).bytes;
  return download < muchBytes ? undefined : { estimate, download };
}

/** Those that fit, with the memory each takes and the tokens of a conversation beside it; 8 bits only where they are less. */
function waysToLoad({ fits, weights, longest, suggestions }) {
  const inFewer = suggestions.find(({ dtype }) => dtype === 'q8_0');
  return [
    ...(fits ? [{ dtype: 'keep', weights, longest }] : []),
    ...(inFewer && inFewer.weights < weights ? [inFewer] : []),
  ];
}

function choice(address, { download, estimate }, fitting, chosen, signal) {
  byId('estimate-download').textContent = `${bytes(download)} would come from ${new URL(address).host}.${estimate.fits ? '' : ' As they are in the file the weights do not fit into WebAssembly’s 4 GB.'}`;
  return new Promise((resolve, reject) => {
    const row = ({ dtype, weights, longest }) => {
      const button = element('button', { text: 'Load', attributes: { type: 'button', 'aria-label': `Load: ${ways[dtype].toLowerCase()}` }, ...(dtype === chosen && { className: 'primary' }) });
      button.addEventListener('click', () => resolve(dtype));
      const room = longest > 0 ? `, and room for ${counted(longest, 'token')} of text` : '';
      return element('li', {}, element('span', {}, element('strong', { text: ways[dtype] }), `: ${bytes(weights)} of memory${room}`), button);
    };
    byId('estimate-ways').replaceChildren(...fitting.map(row));
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

// ---- The field, and the page's own address ----

export function wireAddress(take) {
  byId('address-form').addEventListener('submit', (event) => {
    event.preventDefault();
    take(byId('address').value);
  });
}

/** The model that a link to this page names: `?model=ADDRESS`. */
export function linkedModel() {
  return new URLSearchParams(location.search).get('model') ?? undefined;
}

/** Makes the page's address one that opens this model; undefined: the page as it begins. */
export function setLink(address) {
  const link = new URL(location.href);
  if (address === undefined) link.searchParams.delete('model');
  else link.searchParams.set('model', address);
  history.replaceState(null, '', link);
}
