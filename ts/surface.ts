/**
 * surface.ts: what the entries for this thread (`heddle`, `heddle/edge`, `heddle/inline`) export besides their `init`.
 */
export { computeCorrelation, computeSilhouetteScore, kmeansCluster } from './analysis.js';
export type { Clustering, RowsInput } from './analysis.js';
export { StateDict, loadStateDict, stateDict } from './checkpoint.js';
export type { StateTensor } from './checkpoint.js';
export { createToolDefinition, formatToolResponse, parseAssistant } from './assistant.js';
export type { AssistantText, ToolCall, ToolDefinition } from './assistant.js';
export { openCache } from './cache.js';
export type { ModelCache } from './cache.js';
export { Chat, ChatTurn } from './chat.js';
export type { ChatOptions, ChatReply } from './chat.js';
export { HeddleError } from './errors.js';
export type { ErrorCode } from './errors.js';
export { LocalModel } from './model.js';
export { Network } from './names.js';
export type { LoadedGeneric, LoadedWithDType } from './names.js';
export { LocalRuntime } from './runtime.js';
export * from './schedulers.js';
export { LocalAdapter, LocalSession } from './session.js';
export { SimpleTokenizer, createAttentionMask, padSequence } from './simple-text.js';
export type { PaddedSequences } from './simple-text.js';
export { weightSizes } from './sizes.js';
export type { WeightSize, WeightSizes } from './sizes.js';
export { StepState } from './steps.js';
export { TweenState } from './tween.js';
export type { ChatMessage, ChatTemplateOptions } from './chat-template.js';
export { TextStream } from './text-stream.js';
export { Tokenizer } from './tokenizer.js';
export type { DecodeOptions, EncodeOptions } from './tokenizer.js';
export type { TokenizerFiles } from './tokenizer-files.js';
export type { GgufMetadata } from './tokenizer-gguf.js';
export type * from './types.js';
export { LocalWeights } from './weights.js';
