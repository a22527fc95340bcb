/**
 * text-places.ts: where tokens stand in the text they were made of. The tokenizers' library keeps no offsets, so the tokens' own texts are looked for,
 * one after another, in the text as tokenizers fold it: without accents and in small letters, where it has to be.
 */

export interface TextPlace {
  /** UTF-16 units, as in `text.slice(start, end)`. */
  start: number;
  end: number;
}

/** A text folded, and the character of the text that each unit of it comes from. */
interface Folded {
  text: string;
  characters: TextPlace[];
}

const foldings: readonly ((character: string) => string)[] = [
  (character) => character,
  (character) => character.toLowerCase(),
  (character) => character.normalize('NFD').replace(/\p{M}/gu, '').toLowerCase(),
  (character) => character.normalize('NFKC'),
];

function fold(text: string, each: (character: string) => string): Folded {
  const characters: TextPlace[] = [];
  let folded = '';
  let at = 0;
  for (const character of text) {
    const piece = each(character);
    const end = at + character.length;
    for (let i = 0; i < piece.length; i++) characters.push({ start: at, end });
    folded += piece;
    at = end;
  }
  return { text: folded, characters };
}

/**
 * A place for each token's text, undefined for those that have none (special tokens, parts of a character, unknown words). A token is taken where only
 * spaces lie before it, or before which a token without a place stood.
 */
export function textPlaces(text: string, tokens: readonly string[]): (TextPlace | undefined)[] {
  const found = foldings.map((each) => placesIn(fold(text, each), tokens));
  const count = (places: readonly unknown[]): number => places.filter((place) => place !== undefined).length;
  return found.reduce((best, places) => (count(places) > count(best) ? places : best));
}

function placesIn({ text, characters }: Folded, tokens: readonly string[]): (TextPlace | undefined)[] {
  let at = 0;
  let mayLeap = false;
  return tokens.map((token) => {
    const piece = token.trim().replace(/^##/, '');
    const begin = piece === '' || piece.includes('\uFFFD') ? -1 : text.indexOf(piece, at);
    if (begin < 0 || (!mayLeap && text.slice(at, begin).trim() !== '')) {
      mayLeap = true;
      return undefined;
    }
    mayLeap = false;
    at = begin + piece.length;
    return { start: characters[begin]?.start ?? 0, end: characters[at - 1]?.end ?? 0 };
  });
}
