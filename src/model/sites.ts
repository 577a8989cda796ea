import { type Architecture, sizedFor } from "./architecture.js";
import type { Experts } from "./experts.js";
import type { LatentAttention } from "./mixers.js";
import { layerBase } from "./names.js";
import { inputWidth, outputPath, type Projection, type Step } from "./steps.js";

/**
 * A site: a place in a layer where one input meets weights. Most steps have one, called as the step is. Others lie
 * inside a step: the halves of latent attention, each expert of a mixture, the MLP that every token passes beside them.
 */
export interface Site {
  /** The step at which its projections are operated on. */
  readonly step: Step;
  /** `qkv`, `q_b`, `experts.3.down`, …: unique in a layer, in the order of the forward pass. */
  readonly name: string;
  /** Channels of its input. */
  readonly width: number;
  /** Where its input comes from: the step's own, a latent, or what tokens are inside a mixture of experts. */
  readonly source: "step" | "query latent" | "key latent" | "shared" | "expert";
  /** The expert whose tokens alone come here. */
  readonly expert?: number;
  readonly projections: readonly Projection[];
}

/** The sites of a layer, with all its projections, in the order of the forward pass. */
export function sitesOf(architecture: Architecture, prefix: string, layer: number): Site[] {
  const make = new SiteMaker(architecture, prefix, layer);
  return [...make.attention(), ...make.mlp()];
}

/** The projections of a layer in the order of the forward pass; a stack of experts gives one for each. */
export function projectionsOf(architecture: Architecture, prefix: string, layer: number): Projection[] {
  return sitesOf(architecture, prefix, layer).flatMap(({ projections }) => projections);
}

class SiteMaker {
  private readonly base: string;
  private readonly architecture: Architecture;

  constructor(
    architecture: Architecture,
    prefix: string,
    private readonly layer: number,
  ) {
    this.architecture = sizedFor(architecture, layer);
    this.base = layerBase(architecture.names, prefix, layer);
  }

  attention(): Site[] {
    const { architecture, layer } = this;
    const { hiddenSize, headCount, kvHeadCount, headDim, names, gatedQueries } = architecture;
    const { mixer, takesKeys, valuesAreKeys } = architecture.layers[layer];
    const o = this.site("o", [outputPath(architecture, layer)], [hiddenSize], inputWidth(architecture, "o", layer));
    if (mixer?.kind === "latent") return [...this.latent(mixer), o];
    if (mixer?.kind === "convolution") return [this.site("qkv", ["conv.in_proj"], [3 * hiddenSize], hiddenSize), o];
    if (mixer?.kind === "delta rule") {
      const keys = 2 * mixer.keyHeadCount * mixer.keyDim;
      const values = mixer.valueHeadCount * mixer.valueDim;
      const heads = mixer.valueHeadCount;
      const [paths, rows] =
        mixer.layout === "grouped"
          ? [
              ["in_proj_qkvz", "in_proj_ba"],
              [keys + 2 * values, 2 * heads],
            ]
          : [
              ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"],
              [keys + values, values, heads, heads],
            ];
      const own = paths.map((path) => `linear_attn.${path}`);
      return [this.site("qkv", own, rows, hiddenSize, false), o];
    }
    const queryRows = headCount * headDim * (gatedQueries ? 2 : 1);
    const keyRows = kvHeadCount * headDim;
    const rows = names.qkv.length === 1 ? [queryRows + 2 * keyRows] : [queryRows, keyRows, keyRows];
    const own = names.qkv.slice(0, takesKeys === undefined ? (valuesAreKeys ? 2 : 3) : 1);
    return [this.site("qkv", own, rows, hiddenSize), o];
  }

  mlp(): Site[] {
    const { hiddenSize, intermediateSize, mlp, names, layers } = this.architecture;
    const { experts } = layers[this.layer];
    if (experts !== undefined) return [...this.mixture(experts, "gate_up"), ...this.mixture(experts, "down")];
    const rows = mlp === "gated_rows" ? [2 * intermediateSize] : [intermediateSize, intermediateSize];
    return [
      this.site("gate_up", names.gateUp, rows, hiddenSize),
      this.site("down", [names.down], [hiddenSize], intermediateSize),
    ];
  }

  private latent({ queryRank, keyValueRank, plainDim, ropeDim, valueDim }: LatentAttention): Site[] {
    const { hiddenSize, headCount } = this.architecture;
    const queryRows = headCount * (plainDim + ropeDim);
    const at = (name: string): string => `self_attn.${name}`;
    const inner = (name: string, source: Site["source"], path: string, rows: number, width: number): Site => ({
      ...this.site("qkv", [at(path)], [rows], width, false),
      name,
      source,
    });
    const entering = queryRank === undefined ? "q_proj" : "q_a_proj";
    const rows = [queryRank ?? queryRows, keyValueRank + ropeDim];
    return [
      this.site("qkv", [at(entering), at("kv_a_proj_with_mqa")], rows, hiddenSize, false),
      ...(queryRank === undefined ? [] : [inner("q_b", "query latent", "q_b_proj", queryRows, queryRank)]),
      inner("kv_b", "key latent", "kv_b_proj", headCount * (plainDim + valueDim), keyValueRank),
    ];
  }

  /** The sites of a mixture at one of the MLP's steps: the shared MLP's first, then each expert's. */
  private mixture({ count, width, layout, shared }: Experts, step: "gate_up" | "down"): Site[] {
    const { hiddenSize } = this.architecture;
    const sites: Site[] = [];
    if (shared !== undefined) {
      const paths = (step === "down" ? ["down_proj"] : ["gate_proj", "up_proj"]).map(
        (name) => `${shared.path}.${name}`,
      );
      const [rows, cols] = step === "down" ? [hiddenSize, shared.width] : [shared.width, hiddenSize];
      sites.push({ ...this.site(step, paths, [rows, rows], cols, false), source: "shared" });
    }
    const cols = step === "down" ? width : hiddenSize;
    for (let expert = 0; expert < count; expert++) {
      const place = { step, name: `experts.${expert}.${step}`, width: cols, source: "expert", expert } as const;
      if (layout.kind === "split") {
        const paths = (step === "down" ? [layout.down] : [layout.gate, layout.up]).map((path) =>
          path.replace("{e}", `${expert}`),
        );
        const rows = step === "down" ? hiddenSize : width;
        sites.push({ ...this.site(step, paths, [rows, rows], cols, false), ...place });
        continue;
      }
      const projection = step === "down" ? layout.down : layout.gateUp;
      const matrix: Projection = {
        step,
        projection,
        tensor: `${this.base}${projection}`,
        rows: step === "down" ? hiddenSize : 2 * width,
        cols,
        transposed: layout.transposed,
        stack: { index: expert, count },
      };
      sites.push({ ...place, projections: [matrix] });
    }
    return sites;
  }

  /** A site that a step's own input comes to. Parts that are no plain attention or MLP are stored the usual way. */
  private site(
    step: Step,
    paths: readonly string[],
    rows: readonly number[],
    cols: number,
    transposed = this.architecture.transposed,
  ): Site {
    const projections = paths.map((projection, at) => ({
      step,
      projection,
      tensor: `${this.base}${projection}.weight`,
      rows: rows[at],
      cols,
      transposed,
    }));
    return { step, name: step, width: cols, source: "step", projections };
  }
}
