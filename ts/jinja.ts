/**
 * jinja.ts: chat templates by @huggingface/jinja, the one place that imports it, bundled with it by tools/bundle.mjs and loaded when the first
 * conversation is rendered. Where the library does otherwise than Jinja2 it is set right here:
 *
 *   for       A loop over something undefined runs no times; the library refuses. Its items may be tuples, taken apart by the loop's variables.
 *   tojson    What map, select and their like give is a generator, which tojson refuses; the library writes a list.
 *   dates     strftime_now speaks English wherever it runs, and knows the usual directives; the library asks the host's language.
 */
import { Environment, Interpreter, Template } from '@huggingface/jinja';
import { HeddleError, messageOf } from './errors.js';

/** A node of a template's tree, and a value of the library's, as far as Heddle looks into them. */
interface Node {
  type: string;
  [key: string]: unknown;
}
interface Value {
  type: string;
  value: unknown;
}

/** What raise_exception throws: the template refuses the conversation. */
class Refusal extends Error {}

/** Filters that give generators. */
const generators: readonly string[] = ['map', 'select', 'reject', 'selectattr', 'rejectattr'];

const Base = Interpreter as unknown as new (environment: unknown) => { run(program: unknown): Value; evaluate(node: Node | undefined, environment: unknown): Value };

class JinjaInterpreter extends Base {
  /** What loops run over, and whether they take the items apart. */
  readonly #iterated = new Map<unknown, boolean>();

  override evaluate(node: Node | undefined, environment: unknown): Value {
    if (node?.type === 'For') {
      const { iterable, loopvar } = node as unknown as { iterable: Node; loopvar: Node };
      this.#iterated.set(iterable.type === 'SelectExpression' ? iterable['lhs'] : iterable, loopvar.type === 'TupleLiteral');
    }
    if (node?.type === 'FilterExpression' && filterName(node) === 'tojson') refuseGenerator(node['operand'] as Node);
    const value = super.evaluate(node, environment);
    const takesApart = this.#iterated.get(node);
    return takesApart === undefined ? value : iterable(value, takesApart);
  }
}

function list(items: unknown[]): Value {
  const made = (new Environment() as unknown as { set(name: string, value: unknown): Value }).set('list', []);
  made.value = items;
  return made;
}

function iterable(value: Value, takesApart: boolean): Value {
  if (value.type === 'UndefinedValue') return list([]);
  if (!takesApart || !Array.isArray(value.value)) return value;
  return list((value.value as Value[]).map((item) => (item.type === 'TupleValue' ? list(item.value as unknown[]) : item)));
}

function filterName(node: Node): string {
  const { filter } = node as unknown as { filter: Node & { value?: string; callee?: { value?: string } } };
  return filter.value ?? filter.callee?.value ?? '';
}

function refuseGenerator(operand: Node): void {
  if (operand.type !== 'FilterExpression' || !generators.includes(filterName(operand))) return;
  throw new Error(`tojson: what the filter '${filterName(operand)}' gives is no list; the template needs '| list' between`);
}

/** The text a template makes of the variables. */
export function render(template: string, variables: Readonly<Record<string, unknown>>, now: Date): string {
  let parsed: unknown;
  try {
    ({ parsed } = new Template(template) as unknown as { parsed: unknown });
  } catch (error) {
    throw new HeddleError('bad_file', `the chat template: ${messageOf(error)}`, { cause: error });
  }
  const environment = new Environment() as unknown as { set(name: string, value: unknown): unknown };
  try {
    for (const [name, value] of Object.entries({ ...globals(now), ...variables })) environment.set(name, value);
    return String(new JinjaInterpreter(environment).run(parsed).value);
  } catch (error) {
    if (error instanceof Refusal) throw new HeddleError('bad_argument', `the chat template refuses the conversation: ${error.message}`, { cause: error });
    throw new HeddleError('bad_argument', `the chat template cannot render the conversation: ${messageOf(error)}`, { cause: error });
  }
}

/** What every template finds there, as transformers gives it. */
function globals(now: Date): Record<string, unknown> {
  return {
    true: true, false: false, none: null, True: true, False: false, None: null,
    range,
    raise_exception: (message: unknown) => {
      throw new Refusal(String(message));
    },
    strftime_now: (format: string) => strftime(now, format),
  };
}

/** Most numbers a template may count: a loop over more is a mistake. */
const longestRange = 1_000_000;

function range(first: number, second?: number, step = 1): number[] {
  const [begin, end] = second === undefined ? [0, first] : [first, second];
  if (step === 0) throw new Error('range: a step of 0');
  const count = Math.max(0, Math.ceil((end - begin) / step));
  if (!(count <= longestRange)) throw new Error(`range: ${count} numbers are more than ${longestRange}`);
  return Array.from({ length: count }, (_, i) => begin + i * step);
}

// ---- Dates ----

const months = ['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December'];
const days = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const pad = (value: number, width = 2, fill = '0'): string => String(value).padStart(width, fill);
const dayOfYear = (t: Date): number => Math.round((Date.UTC(t.getFullYear(), t.getMonth(), t.getDate()) - Date.UTC(t.getFullYear(), 0, 1)) / 86_400_000) + 1;

/** Python's directives, in local time, as its C locale writes them. */
const directives: { readonly [letter: string]: (t: Date) => string } = {
  Y: (t) => pad(t.getFullYear(), 4),
  y: (t) => pad(t.getFullYear() % 100),
  m: (t) => pad(t.getMonth() + 1),
  d: (t) => pad(t.getDate()),
  e: (t) => pad(t.getDate(), 2, ' '),
  B: (t) => months[t.getMonth()] ?? '',
  b: (t) => (months[t.getMonth()] ?? '').slice(0, 3),
  A: (t) => days[t.getDay()] ?? '',
  a: (t) => (days[t.getDay()] ?? '').slice(0, 3),
  H: (t) => pad(t.getHours()),
  I: (t) => pad(t.getHours() % 12 || 12),
  M: (t) => pad(t.getMinutes()),
  S: (t) => pad(t.getSeconds()),
  p: (t) => (t.getHours() < 12 ? 'AM' : 'PM'),
  j: (t) => pad(dayOfYear(t), 3),
  F: (t) => strftime(t, '%Y-%m-%d'),
  T: (t) => strftime(t, '%H:%M:%S'),
  '%': () => '%',
};

/** %-d is %d without the zero before it. */
function strftime(time: Date, format: string): string {
  return format.replace(/%(-?)([A-Za-z%])/g, (whole, bare: string, letter: string) => {
    const text = Object.hasOwn(directives, letter) ? directives[letter]?.(time) : undefined;
    if (text === undefined) return whole;
    return bare ? text.replace(/^0+(?=\d)/, '') : text;
  });
}
