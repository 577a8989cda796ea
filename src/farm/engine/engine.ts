import type { EngineChoice } from "../config/organ-farm.js";

/** What a child loads. Plain data: it travels to another process. */
export interface BodySpec {
  readonly body: string;
  /** GGUF file. */
  readonly file: string;
  readonly form: string;
  readonly context: number;
  readonly sequences: number;
  readonly threads: number;
  readonly gpuLayers: number;
  readonly engine: EngineChoice | FakeEngine;
}

/** An engine without a model, for tests and for looking at the farm: answers are made of the prompt. */
export interface FakeEngine {
  readonly kind: "fake";
  readonly loadMs?: number;
  readonly tokenMs?: number;
  readonly bytes?: number;
  /** Ends itself at the first prompt that holds this text. */
  readonly crashOn?: string;
}

export interface ChatTurn {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** What is asked of a body. */
export interface Ask {
  readonly prompt: { readonly text: string } | { readonly turns: readonly ChatTurn[]; readonly chatml: boolean };
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  readonly minP: number;
  readonly seed: number;
  readonly stop: readonly string[];
  /** What the answer is held to while it is made: any JSON, or JSON of a schema; as far as the engine can. */
  readonly grammar: "json" | { readonly schema: unknown } | undefined;
}

/** The likeliest tokens, and nothing that shapes the answer: what every other ask differs from. */
export function greedyAsk(prompt: Ask["prompt"], maxTokens: number): Ask {
  return { prompt, maxTokens, temperature: 0, topP: 1, topK: 0, minP: 0, seed: 0, stop: [], grammar: undefined };
}

export interface Answered {
  readonly text: string;
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** `length`: the tokens or the context were used up. */
  readonly finish: "stop" | "length";
  /** Whether a grammar was asked for and the engine held the answer to it. */
  readonly constrained: boolean;
}

/** What a child says once its model is there. */
export interface Loaded {
  readonly seconds: number;
  /** Resident bytes of the child (and of a server that it runs) now, and video memory where the engine says it. */
  readonly ramBytes: number;
  readonly vramBytes: number;
  /** Further processes that are the child's. */
  readonly pids: readonly number[];
  readonly engine: string;
  readonly hasChatTemplate: boolean;
}

/** A body that runs: one child process, or a fake in this one. */
export interface RunningBody {
  readonly spec: BodySpec;
  readonly loaded: Loaded;
  readonly pid: number | undefined;
  /** Answer; `onPiece` gets the text as it comes. Aborting ends this answer and no other. */
  ask(ask: Ask, onPiece: (text: string) => void, signal: AbortSignal): Promise<Answered>;
  /** Memory now. */
  memory(): Promise<{ ramBytes: number; vramBytes: number }>;
  /** Ends the child; resolves once it is gone and its memory with it. */
  stop(): Promise<void>;
  /** Called once if the child ends by itself. */
  onExit(listener: (reason: string) => void): void;
}

/**
 * Starts bodies. `onStart` is told every process, so that it can be recorded; the model's file is touched only once the
 * first of these calls has come back, and not at all where it fails.
 */
export interface Engine {
  start(spec: BodySpec, onStart: (pid: number) => Promise<void>): Promise<RunningBody>;
}
