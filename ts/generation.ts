/**
 * generation.ts: what `model.generate` returns, here and in a worker: an iterator of tokens that knows, at the end, how it went.
 */
import type { GeneratedToken, GenerateUsage, Generation } from './types.js';

export class TokenGeneration implements Generation {
  readonly #tokens: AsyncGenerator<GeneratedToken, GenerateUsage, void>;
  #usage: GenerateUsage | undefined;

  constructor(tokens: AsyncGenerator<GeneratedToken, GenerateUsage, void>) {
    this.#tokens = tokens;
  }

  get usage(): GenerateUsage | undefined {
    return this.#usage;
  }

  async next(): Promise<IteratorResult<GeneratedToken, undefined>> {
    const result = await this.#tokens.next();
    if (!result.done) return result;
    this.#usage ??= result.value;
    return { done: true, value: undefined };
  }

  /** Ends the generation and frees what it holds; `for await` calls it on `break`. */
  async return(): Promise<IteratorResult<GeneratedToken, undefined>> {
    await this.#tokens.return(undefined as unknown as GenerateUsage);
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async text(): Promise<string> {
    let text = '';
    for await (const token of this) text += token.text;
    return text;
  }
}
