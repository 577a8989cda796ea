/** The words of organ_farm.json, resolved: defaults filled in, paths absolute, sizes in bytes, times in milliseconds. */

export const TIERS = ["VRAM", "RAM", "SSD"] as const;
export type Tier = (typeof TIERS)[number];

export type VerifierKind = "json_strict" | "json_schema" | "code_compile" | "source_present" | "command";

export interface OrganFarm {
  /** The file, absolute. */
  readonly path: string;
  /** Where it lies: nothing of the file leads out of it, unless that was allowed. */
  readonly folder: string;
  readonly tierDefault: Tier;
  readonly budget: Readonly<Record<Tier, number | "auto">>;
  readonly residenceMs: number;
  readonly engine: EngineChoice;
  readonly bodies: ReadonlyMap<string, Body>;
  readonly organs: ReadonlyMap<string, Organ>;
}

export type EngineChoice =
  | { readonly kind: "node-llama-cpp" }
  | {
      readonly kind: "llama-server";
      readonly path?: string;
      readonly address?: string;
      readonly args: readonly string[];
      /** The environment variable that holds the server's key; the key itself is read where it is sent. */
      readonly apiKeyEnv?: string;
    };

export interface Body {
  readonly name: string;
  readonly source: string;
  readonly donor: string | undefined;
  /** GGUF types in the exporter's spelling of the command line: `q8_0`. */
  readonly forms: readonly string[];
  /** Tokens of one conversation; `undefined` for the model's own. */
  readonly context: number | undefined;
  readonly sequences: number;
  readonly threads: number | "auto";
  readonly gpuLayers: number | "auto";
  readonly maxKl: number | undefined;
  readonly maxPerplexityRatio: number | undefined;
  readonly evalText: string | undefined;
  readonly queue: number;
}

export interface Organ {
  readonly name: string;
  readonly body: string;
  readonly tier: Tier;
  readonly verifier: VerifierKind | undefined;
  readonly schema: string | undefined;
  readonly language: "javascript" | "json" | "python" | undefined;
  readonly sourceText: string | undefined;
  readonly command: readonly string[] | undefined;
  readonly commandTimeoutMs: number;
  readonly jsonOut: boolean;
  readonly maxTokens: number;
  readonly temperature: number;
  readonly stop: readonly string[];
  readonly promptTemplate: string | undefined;
  readonly useChatml: boolean | undefined;
  readonly preamble: string | undefined;
  readonly pinned: boolean;
  readonly priority: number;
  readonly ttlMs: number | undefined;
  readonly deadlineMs: number | undefined;
  readonly retries: number;
  readonly anchors: string | undefined;
}

/** Something wrong with the file, and where. */
export interface Problem {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  /** JSON pointer into the file. */
  readonly pointer: string;
  readonly message: string;
}

/** A server that somebody else runs: nothing is admitted for it and nothing placed. */
export function isElsewhere(engine: EngineChoice): boolean {
  return engine.kind === "llama-server" && engine.address !== undefined;
}

/** Organs of a body, in the file's order. */
export function organsOf(farm: OrganFarm, body: string): Organ[] {
  return [...farm.organs.values()].filter((organ) => organ.body === body);
}

/** The fastest tier that an organ of the body asks for: what a body is loaded into serves all of them. */
export function tierOf(farm: OrganFarm, body: string): Tier {
  const wanted = organsOf(farm, body).map(({ tier }) => TIERS.indexOf(tier));
  return wanted.length === 0 ? farm.tierDefault : TIERS[Math.min(...wanted)];
}
