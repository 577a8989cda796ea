import { PhysariumError } from "../../errors.js";
import type { Body, EngineChoice, Organ, OrganFarm, Tier, VerifierKind } from "./organ-farm.js";
import { resolveInside } from "./paths.js";
import { parseDuration, parseSize } from "./units.js";

/** The words as they stand in the file, after it was held to its schema. */
interface RawFarm {
  readonly tier_default?: Tier;
  readonly budget?: Partial<Record<Tier, string | number>>;
  readonly residence?: string;
  readonly engine?: { kind: string; path?: string; address?: string; args?: string[]; api_key_env?: string };
  readonly bodies: Record<string, Record<string, never>>;
  readonly organs: readonly Record<string, never>[];
}

const DEFAULT_RESIDENCE = "5s";
const DEFAULT_TIMEOUT = "10s";

/** What a file means that nothing is wrong with. */
export function resolveFarm(path: string, folder: string, value: unknown, allowOutside: boolean): OrganFarm {
  const raw = value as RawFarm;
  const place = (given: string | undefined): string | undefined => {
    if (given === undefined || given === null) return undefined;
    const resolved = resolveInside(folder, given, allowOutside);
    if ("path" in resolved) return resolved.path;
    // It was looked at a moment ago: a link was put in its place since.
    throw new PhysariumError("USAGE_FARM", `${path}: ${resolved.refused}`, { path });
  };
  const tierDefault = raw.tier_default ?? "VRAM";
  const size = (tier: Tier): number | "auto" => {
    const given = raw.budget?.[tier] ?? "auto";
    return given === "auto" ? "auto" : parseSize(given)!;
  };
  return {
    path,
    folder,
    tierDefault,
    budget: { VRAM: size("VRAM"), RAM: size("RAM"), SSD: size("SSD") },
    residenceMs: parseDuration(raw.residence ?? DEFAULT_RESIDENCE)!,
    engine: engineOf(raw.engine, place),
    bodies: new Map(Object.entries(raw.bodies).map(([name, body]) => [name, bodyOf(name, body, place)])),
    organs: new Map(raw.organs.map((organ) => [organ.name as string, organOf(organ, tierDefault, place)])),
  };
}

type Place = (given: string | undefined) => string | undefined;

function engineOf(raw: RawFarm["engine"], place: Place): EngineChoice {
  if (raw === undefined || raw.kind === "node-llama-cpp") return { kind: "node-llama-cpp" };
  const { path, address, args = [], api_key_env: apiKeyEnv } = raw;
  const program = path === undefined ? undefined : programOf(path, place);
  return {
    kind: "llama-server",
    args,
    ...(program === undefined ? {} : { path: program }),
    ...(address === undefined ? {} : { address }),
    ...(apiKeyEnv === undefined ? {} : { apiKeyEnv }),
  };
}

function bodyOf(name: string, raw: Record<string, unknown>, place: Place): Body {
  return {
    name,
    source: place(raw.source as string)!,
    donor: place(raw.donor as string | undefined),
    forms: (raw.forms as string[] | undefined) ?? ["q8_0"],
    context: raw.context as number | undefined,
    sequences: (raw.sequences as number | undefined) ?? 1,
    threads: (raw.threads as number | "auto" | undefined) ?? "auto",
    gpuLayers: (raw.gpu_layers as number | "auto" | undefined) ?? "auto",
    maxKl: raw.max_kl as number | undefined,
    maxPerplexityRatio: raw.max_perplexity_ratio as number | undefined,
    evalText: place(raw.eval_text as string | undefined),
    queue: (raw.queue as number | undefined) ?? 256,
  };
}

/** A body asked by its own name: an organ of nothing but defaults, so that it answers as it is. */
export function plainOrgan(body: string): Organ {
  return organOf({ name: body, body }, "RAM", () => undefined);
}

function organOf(raw: Record<string, unknown>, tierDefault: Tier, place: Place): Organ {
  const time = (given: unknown): number | undefined => (typeof given === "string" ? parseDuration(given) : undefined);
  const kind = (raw.verifier as string | null | undefined) ?? undefined;
  const command = raw.command as string[] | undefined;
  return {
    name: raw.name as string,
    body: raw.body as string,
    tier: (raw.tier as Tier | undefined) ?? tierDefault,
    verifier: (kind === "hard_verifier" ? "command" : kind) as VerifierKind | undefined,
    schema: place(raw.schema as string | undefined),
    language: raw.language as Organ["language"],
    sourceText: place(raw.source_text as string | undefined),
    command: command === undefined ? undefined : [programOf(command[0], place), ...command.slice(1)],
    commandTimeoutMs: time(raw.command_timeout ?? DEFAULT_TIMEOUT)!,
    jsonOut: (raw.json_out as boolean | undefined) ?? false,
    maxTokens: (raw.max_tokens as number | undefined) ?? 256,
    temperature: (raw.temperature as number | undefined) ?? 0,
    stop: (raw.stop as string[] | undefined) ?? [],
    promptTemplate: place((raw.prompt_template as string | null | undefined) ?? undefined),
    useChatml: (raw.use_chatml as boolean | null | undefined) ?? undefined,
    preamble: (raw.preamble as string | null | undefined) ?? undefined,
    pinned: (raw.pinned as boolean | undefined) ?? false,
    priority: (raw.priority as number | undefined) ?? 1,
    ttlMs: time(raw.ttl),
    deadlineMs: time(raw.deadline),
    retries: (raw.retries as number | undefined) ?? 1,
    anchors: place(raw.anchors as string | undefined),
  };
}

/** A bare name is looked for on the PATH, as a shell does. */
function programOf(given: string, place: Place): string {
  return /[/\\]/.test(given) ? place(given)! : given;
}
