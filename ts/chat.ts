/**
 * chat.ts: a conversation: messages, the model's template that makes them a text, and one session that keeps what it has computed. Each turn
 * only what the template adds is computed; where it changes what came before (some drop old thinking), the session goes back to where the texts part.
 *
 * Written over the surface alone, so it is the same over a model in a worker.
 */
import { parseAssistant } from './assistant.js';
import type { AssistantText } from './assistant.js';
import { chatOptions, checkMessages, checkOptions } from './arguments.js';
import { HeddleError } from './errors.js';
import { TokenGeneration } from './generation.js';
import type { ChatMessage } from './chat-template.js';
import type { GeneratedToken, GenerateUsage, Model, Session, SessionGenerateOptions } from './types.js';

/** How a conversation goes; what SessionGenerateOptions has is the default of every turn. */
export interface ChatOptions extends Omit<SessionGenerateOptions, 'reuse'> {
  /** The first message, said by the system. */
  system?: string;
  /** What was said before. */
  messages?: readonly ChatMessage[];
  /** Tools the model may call, as its template wants them: see createToolDefinition. */
  tools?: readonly object[];
  /** Which of the model's templates, by name, or another template's text. */
  template?: string;
  /** More variables for the template: { enable_thinking: false }. */
  variables?: Readonly<Record<string, unknown>>;
  /**
   * Positions of its session; by default what the model was loaded with. When a turn would not fit, `whenFull: 'slide'` forgets the oldest turns (the system's
   * message stays); otherwise the turn throws `bad_state`.
   */
  context?: number;
}

/** A turn's answer, taken apart, and how it went. */
export interface ChatReply extends AssistantText {
  usage: GenerateUsage;
  /** 'tool_calls' when at least one call can be carried out; 'length' when tokens or positions ran out. */
  finishReason: 'stop' | 'length' | 'tool_calls';
}

/** A turn: its tokens as they are made, and the whole answer at the end. */
export class ChatTurn extends TokenGeneration {
  readonly #answer: { reply?: ChatReply };

  constructor(tokens: AsyncGenerator<GeneratedToken, GenerateUsage, void>, answer: { reply?: ChatReply }) {
    super(tokens);
    this.#answer = answer;
  }

  /** Runs to the end, or on to it, and resolves to the answer. Throws `bad_state` for a turn that was broken off. */
  async reply(): Promise<ChatReply> {
    while (!(await this.next()).done);
    if (!this.#answer.reply) throw new HeddleError('bad_state', 'the turn was broken off: it has no reply');
    return this.#answer.reply;
  }
}

export class Chat {
  readonly #model: Model;
  readonly #session: Session;
  readonly #options: Omit<ChatOptions, 'system' | 'messages' | 'context'>;
  readonly #begin: readonly ChatMessage[];
  #messages: ChatMessage[];
  #busy = false;

  private constructor(model: Model, session: Session, { system, messages = [], context: _, ...options }: ChatOptions) {
    this.#model = model;
    this.#session = session;
    this.#options = options;
    this.#begin = [...(system === undefined ? [] : [{ role: 'system', content: system }]), ...messages];
    this.#messages = [...this.#begin];
  }

  /** A conversation with a session of its own. Throws `bad_state` when the model has no chat template. */
  static async start(model: Model, options: ChatOptions): Promise<Chat> {
    checkOptions(options, chatOptions);
    const { context, template } = options;
    if (template === undefined && (await model.chatTemplate()) === undefined) throw new HeddleError('bad_state', 'the model has no chat template: give one as options.template');
    return new Chat(model, await model.createSession({ outputRows: 1, ...(context !== undefined && { context }) }), options);
  }

  /** What was said so far. */
  get messages(): readonly ChatMessage[] {
    return this.#messages;
  }

  /** Tokens the session holds. */
  get position(): number {
    return this.#session.position;
  }

  /**
   * Says something (a text is the user's; a tool's answer is { role: 'tool', content }) and gives the model its turn. The answer becomes a message when the
   * turn ends or is left with `break`; a turn that throws or is aborted leaves the conversation as it was.
   */
  send(message: string | ChatMessage | readonly ChatMessage[], options: SessionGenerateOptions = {}): ChatTurn {
    const said = typeof message === 'string' ? [{ role: 'user', content: message }] : Array.isArray(message) ? (message as ChatMessage[]) : [message as ChatMessage];
    checkMessages(said, 'messages');
    const answer: { reply?: ChatReply } = {};
    return new ChatTurn(this.#turn(said, options, answer), answer);
  }

  async *#turn(said: readonly ChatMessage[], options: SessionGenerateOptions, answer: { reply?: ChatReply }): AsyncGenerator<GeneratedToken, GenerateUsage, void> {
    if (this.#busy) throw new HeddleError('bad_state', 'the turn before has not ended');
    this.#busy = true;
    let raw = '';
    let failed = true;
    const messages = [...this.#messages, ...said];
    try {
      const { tools: _tools, template: _template, variables: _variables, ...defaults } = this.#options;
      const all = { ...defaults, ...options };
      const prompt = await this.#fit(messages, all);
      const generation = this.#session.generate(prompt, { ...all, reuse: true });
      failed = false; // leaving the loop below by `break` is no failure; what throws in it is
      try {
        for (;;) {
          const { done, value } = await generation.next();
          if (done) break;
          raw += value.text;
          yield value;
        }
      } catch (error) {
        failed = true;
        throw error;
      } finally {
        await generation.return?.();
      }
      const usage = generation.usage as GenerateUsage;
      const parsed = parseAssistant(raw);
      answer.reply = { ...parsed, usage, finishReason: finishReason(parsed, usage) };
      return usage;
    } finally {
      this.#busy = false;
      if (!failed) this.#messages = [...messages, assistantMessage(answer.reply ?? parseAssistant(raw))];
    }
  }

  #promptOf(messages: readonly ChatMessage[]): Promise<number[]> {
    const { tools, template, variables } = this.#options;
    return this.#model.applyChatTemplate(messages, { addGenerationPrompt: true, tokenize: true, ...(tools && { tools }), ...(template !== undefined && { template }), ...(variables && { variables }) });
  }

  /**
   * The messages as ids that leave room for an answer. With 'slide', the oldest turns are taken from `messages` until they do; without, a conversation that
   * has no position left is refused.
   */
  async #fit(messages: ChatMessage[], { whenFull, maxTokens = Infinity }: SessionGenerateOptions): Promise<number[]> {
    const { context } = this.#session;
    let prompt = await this.#promptOf(messages);
    const room = Math.min(maxTokens, Math.floor(context / 4));
    while (whenFull === 'slide' && prompt.length + room > context && forgetOldest(messages)) prompt = await this.#promptOf(messages);
    if (prompt.length < context) return prompt;
    const advice = whenFull === 'slide' ? 'the last message alone is too long' : "takeBack, setMessages or reset make it shorter, whenFull: 'slide' forgets the oldest turns";
    throw new HeddleError('bad_state', `the conversation is ${prompt.length} tokens, and its session has ${context} positions: ${advice}`);
  }

  /** Forgets what was said since the beginning. */
  async reset(): Promise<void> {
    this.#messages = [...this.#begin];
    await this.#session.reset();
  }

  /** Takes back the last messages; the session goes back with the next turn. */
  takeBack(count: number): void {
    if (!(Number.isInteger(count) && count >= 0 && count <= this.#messages.length)) throw new HeddleError('bad_argument', `there are ${this.#messages.length} messages to take back, not ${count}`);
    this.#messages.length -= count;
  }

  /**
   * Goes on from these messages instead, a conversation that was kept or another beginning; `reset` goes back to the first one all the same. The next turn
   * computes what the session does not hold of them. Throws `bad_state` during a turn.
   */
  setMessages(messages: readonly ChatMessage[]): void {
    checkMessages(messages, 'messages');
    if (this.#busy) throw new HeddleError('bad_state', 'the turn before has not ended');
    this.#messages = [...messages];
  }

  free(): Promise<void> {
    return this.#session.free();
  }

  [Symbol.dispose](): void {
    this.#session[Symbol.dispose]();
  }
}

/** Takes the oldest turn away: what follows the system's message, up to the next that the user says. False when there is only one. */
function forgetOldest(messages: ChatMessage[]): boolean {
  const begin = messages[0]?.role === 'system' ? 1 : 0;
  const next = messages.findIndex(({ role }, i) => i > begin && role === 'user');
  if (next < 0) return false;
  messages.splice(begin, next - begin);
  return true;
}

function finishReason({ toolCalls }: AssistantText, { stop }: GenerateUsage): ChatReply['finishReason'] {
  if (toolCalls.some(({ status }) => status === 'ok')) return 'tool_calls';
  return stop === 'max_tokens' || stop === 'context' ? 'length' : 'stop';
}

/** The answer as templates take it: calls apart from the words. */
function assistantMessage({ rawText, toolCalls }: AssistantText): ChatMessage {
  const calls = toolCalls.filter(({ status }) => status === 'ok');
  if (calls.length === 0) return { role: 'assistant', content: rawText };
  return {
    role: 'assistant',
    content: rawText.slice(0, rawText.indexOf('<tool_call>')).trimEnd(),
    tool_calls: calls.map(({ id, name, arguments: given }) => ({ id, type: 'function', function: { name, arguments: given } })),
  };
}
