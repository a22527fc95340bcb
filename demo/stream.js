/** stream.js: a text while it is made: once a frame it is shown, whole sentences are read out, and its speed is measured. */
import { showSpeed } from './figures.js';
import { element } from './page.js';

/** Too short to tell a speed from, in milliseconds. */
const leastMs = 5;

export class Stream {
  /** All that has come. */
  text = '';
  tokens = 0;
  #live;
  #show;
  #frame = 0;
  #heard = 0;
  #start = performance.now();
  #waited = 0; // milliseconds the model took, without those that its reader did
  #firstToken;

  /** `live` is the log for screen readers; `show(text, tokens, isWhole)` shows what there is and gives back what of it is to be read out. */
  constructor(live, show) {
    this.#live = live;
    this.#show = show;
  }

  /** Waits for the next token, and counts how long. */
  async wait(next) {
    const from = performance.now();
    const result = await next;
    // The first token comes after the prompt is read: that is its own figure.
    if (this.#firstToken === undefined) this.#firstToken = performance.now() - this.#start;
    else this.#waited += performance.now() - from;
    return result;
  }

  add({ token, text }) {
    if (token >= 0) this.tokens++;
    this.text += text;
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  /** However many tokens came, once a frame. Screen readers get whole sentences. */
  #draw(usage, isWhole = false) {
    this.#frame = 0;
    const words = this.#show(this.text, this.tokens, isWhole);
    const sentences = /^[^]*[.!?]["”’)]?\s/.exec(words.slice(this.#heard))?.[0];
    if (sentences) this.#read(sentences);
    showSpeed({ tokens: this.tokens, firstToken: this.#firstToken, tokensPerSecond: usage?.tokensPerSecond ?? this.#speed(), prompt: usage });
    return words;
  }

  #speed() {
    return this.tokens > 1 && this.#waited > leastMs ? (1000 * this.tokens) / this.#waited : undefined;
  }

  #read(sentences) {
    this.#heard += sentences.length;
    this.#live.append(element('p', { text: sentences.trim() }));
  }

  /** Shows and reads out the rest. `usage` is undefined for a text that was cut short. */
  end(usage) {
    cancelAnimationFrame(this.#frame);
    const rest = this.#draw(usage, true).slice(this.#heard);
    if (rest.trim()) this.#read(rest);
  }
}
