import type { PlainError } from "../../errors.js";
import type { Answered, Ask, BodySpec, Loaded } from "./engine.js";

/** What the farm says to a body's child. */
export type ToChild =
  /** Get ready for a body without touching its file. */
  | { readonly kind: "prepare"; readonly spec: BodySpec }
  | { readonly kind: "load"; readonly spec: BodySpec }
  | { readonly kind: "ask"; readonly id: number; readonly ask: Ask }
  | { readonly kind: "cancel"; readonly id: number }
  | { readonly kind: "call"; readonly id: number; readonly call: Call };

/** Questions of admission. */
export type Call =
  | { readonly what: "tokens"; readonly prompt: Ask["prompt"] }
  | { readonly what: "distributions"; readonly ids: readonly number[]; readonly from: number }
  | { readonly what: "greedy"; readonly ids: readonly number[]; readonly count: number }
  | { readonly what: "speed"; readonly threads: readonly number[] }
  | { readonly what: "memory" };

export interface Speed {
  readonly threads: number;
  /** Tokens a second: of a prompt read, of an answer written. */
  readonly prompt: number;
  readonly answer: number;
}

/** What a child says. */
export type FromChild =
  | { readonly kind: "loaded"; readonly loaded: Loaded }
  /** A further process, as soon as there is one. */
  | { readonly kind: "started"; readonly pid: number }
  | { readonly kind: "piece"; readonly id: number; readonly text: string }
  | { readonly kind: "answered"; readonly id: number; readonly answered: Answered }
  | { readonly kind: "result"; readonly id: number; readonly result: unknown }
  /** Without an id: of the load. */
  | { readonly kind: "failed"; readonly id?: number; readonly error: PlainError };

/** What runs in the child: an engine by another's hand. */
export interface Driver {
  readonly loaded: Omit<Loaded, "seconds" | "ramBytes">;
  ask(ask: Ask, onPiece: (text: string) => void, signal: AbortSignal): Promise<Answered>;
  tokens(prompt: Ask["prompt"]): Promise<number[]>;
  /** ln p of every token of the vocabulary behind each place from `from` to the last but one. */
  distributions(ids: readonly number[], from: number): Promise<{ values: Float32Array; places: number }>;
  greedy(ids: readonly number[], count: number): Promise<{ ids: number[]; finite: boolean }>;
  speed(threads: readonly number[]): Promise<Speed[]>;
  /** Bytes of further processes, and of video memory. */
  memory(): Promise<{ otherBytes: number; vramBytes: number }>;
}
