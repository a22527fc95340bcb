/**
 * json-schema.ts: the JSON texts that fit a JSON Schema, as a grammar.
 *
 * Read: type (one or several), properties, required, additionalProperties, items, prefixItems, minItems, maxItems, minLength, maxLength, enum, const, anyOf, oneOf
 * (as anyOf), $ref to #/$defs or #/definitions, and true / {} for any value. Not looked at: title, description, default, examples, $schema, $id, $comment,
 * deprecated, readOnly, writeOnly. Everything else is refused by name.
 *
 * Properties come in the order the schema lists them, additional ones after them; numbers have at most 16 digits before and after the point.
 * Between tokens of JSON there may be a space, or a line break with up to 16 spaces or 4 tabs.
 */
import { isPlainObject } from './arguments.js';
import { HeddleError } from './errors.js';
import { character, choice, later, optional, repeat, sequence, text } from './grammar.js';
import type { Rule } from './grammar.js';

export type JsonSchema = boolean | { readonly [keyword: string]: unknown };

const annotations = ['title', 'description', 'default', 'examples', '$schema', '$id', '$comment', 'deprecated', 'readOnly', 'writeOnly', '$defs', 'definitions'];

/** Keywords that only say something together with a type, and which. */
const keywordsOf: Record<string, readonly string[]> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength'],
  number: [], integer: [], boolean: [], null: [],
};

const known = ['type', 'enum', 'const', 'anyOf', 'oneOf', '$ref', ...annotations, ...Object.values(keywordsOf).flat()];

// ---- JSON itself ----

/** As short as people write it: a model that likes white space should not fill the text with it. */
const space = choice(text(''), text(' '), sequence(text('\n'), choice(repeat(text(' '), 0, 16), repeat(text('\t'), 1, 4))));
const digit = character('digit', (u) => u >= 0x30 && u <= 0x39);
const hexDigit = character('hex digit', (u) => (u >= 0x30 && u <= 0x39) || (u >= 0x41 && u <= 0x46) || (u >= 0x61 && u <= 0x66));
const integer = sequence(optional(text('-')), choice(text('0'), sequence(character('digit from 1', (u) => u >= 0x31 && u <= 0x39), repeat(digit, 0, 15))));
const number = sequence(
  integer,
  optional(sequence(text('.'), repeat(digit, 1, 16))),
  optional(sequence(choice(text('e'), text('E')), optional(choice(text('+'), text('-'))), repeat(digit, 1, 3))),
);
/** Most characters of most tokens, and all that a string takes as they are. */
export const plain = character('plain', (u) => u >= 0x20 && u !== 0x22 && u !== 0x5c && !(u >= 0xd800 && u < 0xe000));
const pair = sequence(character('high surrogate', (u) => u >= 0xd800 && u < 0xdc00), character('low surrogate', (u) => u >= 0xdc00 && u < 0xe000));
const escape = sequence(
  text('\\'),
  choice(character('escape', (u) => '"\\/bfnrt'.includes(String.fromCharCode(u))), sequence(text('u'), repeat(hexDigit, 4, 4))),
);
/** One character of a string: what minLength and maxLength count. */
const stringCharacter = choice(plain, pair, escape);

function string(min = 0, max = Infinity): Rule {
  return sequence(text('"'), repeat(stringCharacter, min, max), text('"'));
}

/** rule, rule, … in brackets, any number of times between bounds. */
function list(rule: Rule, min: number, max: number): Rule {
  if (max === 0) return sequence(text('['), space, text(']'));
  const more = repeat(sequence(text(','), space, rule), Math.max(min - 1, 0), max - 1);
  const items = sequence(rule, more);
  return sequence(text('['), space, min > 0 ? items : optional(items), space, text(']'));
}

const anyValue: Rule = later(() => choice(string(), number, text('true'), text('false'), text('null'), list(anyValue, 0, Infinity), anyObject));
const anyObject: Rule = later(() => {
  const member = sequence(string(), text(':'), space, anyValue);
  return sequence(text('{'), space, optional(sequence(member, repeat(sequence(text(','), space, member), 0))), space, text('}'));
});

// ---- Schemas ----

/** The grammar of a schema's texts. Throws `bad_argument` or, for keywords that are not read, `unsupported`; both name the place. */
export function schemaRule(schema: JsonSchema): Rule {
  return new Compiler(schema).rule(schema, '#');
}

class Compiler {
  readonly #root: JsonSchema;
  readonly #refs = new Map<string, Rule>();

  constructor(root: JsonSchema) {
    this.#root = root;
  }

  rule(schema: unknown, path: string): Rule {
    if (schema === true) return anyValue;
    if (!isPlainObject(schema)) throw new HeddleError('bad_argument', `schema ${path}: expected an object or true, found ${schema === false ? 'false, which nothing fits' : typeof schema}`);
    for (const keyword of Object.keys(schema)) {
      if (!known.includes(keyword)) throw new HeddleError('unsupported', `schema ${path}: the keyword '${keyword}' is not read; known: ${known.filter((each) => !annotations.includes(each)).join(', ')}`);
    }
    if (typeof schema.$ref === 'string') return this.#reference(schema.$ref, path);
    if ('const' in schema) return text(JSON.stringify(schema.const));
    if ('enum' in schema) return this.#enumeration(schema.enum, `${path}/enum`);
    const union = schema.anyOf ?? schema.oneOf;
    if (union !== undefined) return this.#union(union, `${path}/${schema.anyOf === undefined ? 'oneOf' : 'anyOf'}`);
    return choice(...this.#types(schema, path).map((type) => this.#typed(type, schema, path)));
  }

  #enumeration(values: unknown, path: string): Rule {
    if (!Array.isArray(values) || values.length === 0) throw new HeddleError('bad_argument', `schema ${path}: expected an array with values`);
    return choice(...values.map((value) => text(JSON.stringify(value))));
  }

  #union(schemas: unknown, path: string): Rule {
    if (!Array.isArray(schemas) || schemas.length === 0) throw new HeddleError('bad_argument', `schema ${path}: expected an array with schemas`);
    return choice(...schemas.map((each, i) => this.rule(each, `${path}/${i}`)));
  }

  #reference(ref: string, path: string): Rule {
    const found = this.#refs.get(ref);
    if (found) return found;
    if (ref !== '#' && !/^#\/(\$defs|definitions)\//.test(ref)) throw new HeddleError('unsupported', `schema ${path}: $ref '${ref}': expected one within the schema, as #/$defs/name`);
    let target: unknown = this.#root;
    for (const step of ref.split('/').slice(1)) target = isPlainObject(target) ? target[step.replaceAll('~1', '/').replaceAll('~0', '~')] : undefined;
    if (target === undefined) throw new HeddleError('bad_argument', `schema ${path}: $ref '${ref}': there is nothing of that name`);
    const rule = later(() => made);
    this.#refs.set(ref, rule); // before it is made: it may refer to itself
    const made = this.rule(target, ref);
    return rule;
  }

  /** The types its values may have: those it names, or those its keywords are about, or any. */
  #types(schema: Record<string, unknown>, path: string): string[] {
    const given = schema['type'];
    const implied = Object.keys(keywordsOf).filter((type) => keywordsOf[type]?.some((keyword) => keyword in schema));
    const types: unknown[] = given === undefined ? (implied.length > 0 ? implied : ['string', 'number', 'boolean', 'null', 'array', 'object']) : Array.isArray(given) ? given : [given];
    for (const type of types) {
      if (typeof type !== 'string' || !Object.hasOwn(keywordsOf, type)) throw new HeddleError('bad_argument', `schema ${path}/type: expected ${Object.keys(keywordsOf).join(', ')}, found ${JSON.stringify(type)}`);
    }
    return types as string[];
  }

  #typed(type: string, schema: Record<string, unknown>, path: string): Rule {
    switch (type) {
      case 'object': return this.#object(schema, path);
      case 'array': return this.#array(schema, path);
      case 'string': return string(...bounds(schema, 'minLength', 'maxLength', path));
      case 'integer': return integer;
      case 'number': return number;
      case 'boolean': return choice(text('true'), text('false'));
      default: return text('null');
    }
  }

  #array(schema: Record<string, unknown>, path: string): Rule {
    const [min, max] = bounds(schema, 'minItems', 'maxItems', path);
    const { items = true, prefixItems } = schema;
    if (prefixItems === undefined) return list(items === true ? anyValue : this.rule(items, `${path}/items`), min, max);
    if (!Array.isArray(prefixItems)) throw new HeddleError('bad_argument', `schema ${path}/prefixItems: expected an array of schemas`);
    if (min > prefixItems.length || max < prefixItems.length || (items !== false && items !== true)) {
      throw new HeddleError('unsupported', `schema ${path}: prefixItems is read as exactly those items, without items or bounds that say otherwise`);
    }
    const parts = prefixItems.map((each, i) => this.rule(each, `${path}/prefixItems/${i}`));
    return sequence(text('['), space, ...parts.flatMap((part, i) => (i > 0 ? [text(','), space, part] : [part])), space, text(']'));
  }

  #object(schema: Record<string, unknown>, path: string): Rule {
    const { properties = {}, required = [], additionalProperties = !('properties' in schema) } = schema;
    if (!isPlainObject(properties)) throw new HeddleError('bad_argument', `schema ${path}/properties: expected an object`);
    if (!Array.isArray(required) || required.some((name) => typeof name !== 'string')) throw new HeddleError('bad_argument', `schema ${path}/required: expected an array of names`);
    const missing = (required as string[]).find((name) => !Object.hasOwn(properties, name));
    if (missing !== undefined) throw new HeddleError('unsupported', `schema ${path}/required: '${missing}' is not among the properties`);
    const members = Object.entries(properties).map(([name, value]) => ({
      rule: sequence(text(`${JSON.stringify(name)}:`), space, this.rule(value, `${path}/properties/${name}`)),
      needed: required.includes(name),
    }));
    const extra = additionalProperties === false ? undefined : sequence(string(), text(':'), space, this.rule(additionalProperties, `${path}/additionalProperties`));
    return sequence(text('{'), space, membersFrom(members, 0, true, extra), space, text('}'));
  }
}

function bounds(schema: Record<string, unknown>, least: string, most: string, path: string): [min: number, max: number] {
  const read = (keyword: string, missing: number): number => {
    const value = schema[keyword] ?? missing;
    if (value !== missing && !(Number.isInteger(value) && Number(value) >= 0)) throw new HeddleError('bad_argument', `schema ${path}/${keyword}: expected a whole number from 0, found ${JSON.stringify(value)}`);
    return Number(value);
  };
  const [min, max] = [read(least, 0), read(most, Infinity)];
  if (min > max) throw new HeddleError('bad_argument', `schema ${path}: ${least} ${min} is more than ${most} ${max}`);
  return [min, max];
}

/** What may follow in an object once the members before `at` are decided; `first`: none of them is there. */
function membersFrom(members: readonly { rule: Rule; needed: boolean }[], at: number, first: boolean, extra: Rule | undefined): Rule {
  const comma = first ? text('') : sequence(text(','), space);
  const member = members[at];
  if (!member) {
    if (!extra) return text('');
    return optional(sequence(comma, extra, repeat(sequence(text(','), space, extra), 0)));
  }
  const here = sequence(comma, member.rule, later(() => membersFrom(members, at + 1, false, extra)));
  return member.needed ? here : choice(here, later(() => membersFrom(members, at + 1, first, extra)));
}
