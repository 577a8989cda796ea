import { PhysariumError } from "../../errors.js";
import type { Answered, Ask } from "../engine/engine.js";
import type { Placement } from "../plan/choose.js";
import type { Queued } from "./request-queue.js";

/** What somebody wants of a body. */
export interface Order {
  readonly organ: string;
  readonly body: string;
  readonly ask: Ask;
  readonly priority: number;
  /** Milliseconds from now on in which the answer must be whole. */
  readonly deadlineMs: number | undefined;
  /** Rather not than have another body give way. */
  readonly noSwap: boolean;
  readonly signal: AbortSignal;
  readonly onPiece: (text: string) => void;
  /** Told where it is answered, before anything of the answer. */
  readonly onStart?: (placement: Placement, generation: number) => void;
}

export interface Served extends Answered {
  readonly placement: Placement;
  readonly generation: number;
  /** Of waiting, a load included, and of answering. */
  readonly waitedSeconds: number;
  readonly seconds: number;
  /** The body was loaded already when the request came. */
  readonly reused: boolean;
  readonly ramBytes: number;
}

/** An order in the farm. It is settled exactly once. */
export interface Request extends Queued {
  readonly order: Order;
  readonly reused: boolean;
  /** Something of the answer went out: it cannot be begun anew. */
  started: boolean;
  /** Times it lost its body. */
  losses: number;
  readonly controller: AbortController;
  settle(result: Served | Error): void;
}

/** Codes that a caller turns into an answer of his own. */
export function refuse(code: string, message: string, details: Record<string, unknown> = {}): PhysariumError {
  return new PhysariumError(code, message, details);
}
