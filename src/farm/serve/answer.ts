import { isPhysariumError, PhysariumError } from "../../errors.js";
import type { Organ } from "../config/organ-farm.js";
import { plainOrgan } from "../config/resolve-farm.js";
import type { Ask, ChatTurn } from "../engine/engine.js";
import type { Placement } from "../plan/choose.js";
import { systemClock } from "../runtime/clock.js";
import type { Served } from "../runtime/request.js";
import { type Outcome, Score } from "../runtime/score.js";
import { jsonSchema, jsonStrict } from "../verify/json-verifiers.js";
import type { Verdict, Verifier } from "../verify/verdict.js";
import type { FarmService, LiveOrgan } from "./farm-service.js";
import { organAsk, organPrompt, organText } from "./organ-prompt.js";

/** What a client asks of an organ, or of a body as it is. */
export interface Question {
  /** Organ or body. */
  readonly model: string;
  readonly prompt: { readonly turns: readonly ChatTurn[] } | { readonly text: string };
  /** What the request changes of the organ's settings. */
  readonly settings: Partial<Pick<Ask, "maxTokens" | "temperature" | "topP" | "topK" | "minP" | "seed" | "stop">>;
  readonly format: "json" | { readonly schema: unknown } | undefined;
  readonly noSwap: boolean;
  readonly deadlineMs: number | undefined;
  readonly signal: AbortSignal;
  /** For streams: the text as it comes. A stream is not begun anew. */
  readonly onPiece?: (text: string) => void;
  readonly onStart?: (provenance: Provenance) => void;
}

/** Where an answer is from. */
export interface Provenance {
  readonly organ: string;
  readonly body: string;
  readonly form: string;
  readonly tier: string;
  readonly gpu_layers: number;
  readonly generation: number;
  readonly ledger_sha256: string | null;
  readonly kl: number | null;
}

export interface Reply {
  readonly provenance: Provenance;
  readonly served: Served;
  readonly seed: number;
  readonly attempts: number;
  /** `null` where nothing checks the answer. */
  readonly verdict: Verdict | null;
}

/** The temperature of a second try: at 0 it would be the first one's answer again. */
const RETRY_TEMPERATURE = 0.7;

/**
 * Answer a question: ask the body, check what it says, ask again where it does not pass. What is returned is in the
 * journal. Throws `FARM_VERDICT` with the verdict where no try passed (a stream returns it instead), `FARM_*` of the
 * runtime, `USAGE_PROMPT`.
 */
export async function answer(service: FarmService, question: Question): Promise<Reply> {
  const live = findOrgan(service, question.model);
  const { organ } = live;
  const refusal = service.unavailable(organ.body);
  if (refusal !== undefined) throw refusal;
  const ask = askOf(live, question);
  const verifier = verifierOf(live, question.format);
  const tries = 1 + (question.onPiece === undefined && verifier !== undefined ? organ.retries : 0);
  const seed = ask.seed;
  for (let attempt = 1; ; attempt++) {
    const next =
      attempt === 1 ? ask : { ...ask, seed: seed + attempt - 1, temperature: ask.temperature || RETRY_TEMPERATURE };
    const served = await serve(service, live, next, question);
    const verdict = (await verifier?.({ answer: served.text, input: inputOf(question) }, question.signal)) ?? null;
    const passed = verdict?.passed ?? true;
    record(live, {
      kind: passed ? "passed" : "failed",
      reused: served.reused,
      seconds: served.seconds,
      bytes: served.ramBytes,
    });
    const reply = {
      provenance: provenanceOf(service, organ, served),
      served,
      seed: next.seed,
      attempts: attempt,
      verdict,
    };
    await remember(service, reply);
    if (passed || question.onPiece !== undefined) return reply;
    if (attempt < tries) continue;
    throw new PhysariumError(
      "FARM_VERDICT",
      `${organ.name}: ${attempt} answers, none passed ${verdict!.verifier}: ${verdict!.reason}`,
      {
        verdict,
        attempts: attempt,
        answer: served.text,
        provenance: reply.provenance,
      },
    );
  }
}

/** An organ by name; a body by its own name answers as it is, with nothing around it. */
function findOrgan(service: FarmService, model: string): LiveOrgan {
  const organ = service.organs.get(model);
  if (organ !== undefined) return organ;
  if (service.farm.bodies.has(model)) return bareOrgan(model);
  const known = [...service.organs.keys(), ...service.farm.bodies.keys()];
  throw new PhysariumError(
    "FARM_UNKNOWN_MODEL",
    `there is no organ and no body "${model}"; there are ${known.join(", ") || "none"}`,
    {
      model,
    },
  );
}

/** Its score is its own and goes with it: a body asked by its own name earns nobody one. */
function bareOrgan(body: string): LiveOrgan {
  return {
    organ: plainOrgan(body),
    texts: { template: undefined, schema: undefined },
    verifier: undefined,
    score: new Score(systemClock.now()),
    pinned: false,
  };
}

function askOf({ organ, texts }: LiveOrgan, { prompt, settings, format }: Question): Ask {
  const written = "turns" in prompt ? organPrompt(organ, texts, prompt.turns) : organText(organ, texts, prompt.text);
  const own = organAsk(organ, texts, written);
  const grammar = format ?? own.grammar;
  return { ...own, seed: Math.floor(Math.random() * 2 ** 31), ...settings, grammar };
}

/** The organ's verifier; a format that the request asks for is checked where the organ checks nothing. */
function verifierOf({ verifier }: LiveOrgan, format: Question["format"]): Verifier | undefined {
  if (verifier !== undefined || format === undefined) return verifier;
  return format === "json" ? jsonStrict : jsonSchema(format.schema);
}

async function serve(service: FarmService, live: LiveOrgan, ask: Ask, question: Question): Promise<Served> {
  const { organ } = live;
  const started = systemClock.now();
  try {
    return await service.runtime.submit({
      organ: organ.name,
      body: organ.body,
      ask,
      priority: organ.priority,
      deadlineMs: question.deadlineMs ?? organ.deadlineMs,
      noSwap: question.noSwap,
      signal: question.signal,
      onPiece: question.onPiece ?? (() => {}),
      onStart: (placement, generation) => question.onStart?.(provenanceOf(service, organ, { placement, generation })),
    });
  } catch (error) {
    const seconds = (systemClock.now() - started) / 1000;
    const bytes = service.runtime.homes.get(organ.body)?.holds.RAM ?? 0;
    if (isPhysariumError(error, "FARM_DEADLINE")) record(live, { kind: "late", reused: true, seconds, bytes });
    else if (isPhysariumError(error, "FARM_UNAVAILABLE")) record(live, { kind: "error", reused: true, seconds, bytes });
    throw error;
  }
}

function record({ score }: LiveOrgan, outcome: Outcome): void {
  score.add(outcome, systemClock.now());
}

function provenanceOf(
  service: FarmService,
  { name, body }: Organ,
  at: { placement: Placement; generation: number },
): Provenance {
  const { form, tier, gpuLayers, kl } = at.placement;
  return {
    organ: name,
    body,
    form,
    tier,
    gpu_layers: gpuLayers,
    generation: at.generation,
    ledger_sha256: service.admissions.get(body)?.ledger_sha256 ?? null,
    kl: kl ?? null,
  };
}

/** In the journal before the client has it. */
async function remember(service: FarmService, { provenance, served, verdict, attempts }: Reply): Promise<void> {
  const facts = {
    organ: provenance.organ,
    body: provenance.body,
    form: provenance.form,
    generation: provenance.generation,
    prompt_tokens: served.promptTokens,
    completion_tokens: served.completionTokens,
    waited_seconds: served.waitedSeconds,
    seconds: served.seconds,
    attempt: attempts,
    verdict: verdict === null ? null : verdict.passed,
  };
  await service.journal.append("answer", facts);
  service.tell({ event: "answer", ...facts });
}

function inputOf({ prompt }: Question): string {
  return "text" in prompt ? prompt.text : prompt.turns.map(({ content }) => content).join("\n");
}
