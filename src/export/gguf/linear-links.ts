import type { DeltaRule } from "../../model/mixers.js";
import { type Link, tiledHeads } from "./links.js";

type Push = (path: string, ggufPath: string, shape: readonly number[], more?: Partial<Link>) => void;

/**
 * Tensors of linear attention by the gated delta rule. In the file q, k, v of all heads lie one behind the other and z
 * apart; where the checkpoint has them so already (Qwen3.5), heads of values stand tiled besides, Qwen3-Next's do not.
 * source: llama.cpp conversion/qwen.py `Qwen3NextModel`, `_LinearAttentionVReorderBase`
 */
export function linearAttentionLinks(rule: DeltaRule, hiddenSize: number, push: Push): void {
  const { keyHeadCount, valueHeadCount, keyDim, valueDim, kernelSize, layout } = rule;
  const [keys, values] = [keyHeadCount * keyDim, valueHeadCount * valueDim];
  const tiles = layout === "apart" && keyHeadCount !== valueHeadCount;
  const tiled = (headLength: number): { order?: Int32Array } =>
    tiles ? { order: tiledHeads(keyHeadCount, valueHeadCount, headLength) } : {};
  const { order } = tiled(valueDim);
  const mixed = order === undefined ? {} : { order: behindKeys(2 * keys, order) };
  const whole = (rows: number, more: Partial<Link>): Partial<Link> => ({ ggufShape: [rows, hiddenSize], ...more });
  if (layout === "grouped") {
    const { qkv, gate } = ungroupedRows(rule);
    const both = [2 * keys + 2 * values, hiddenSize];
    push("in_proj_qkvz.weight", "attn_qkv.weight", both, whole(2 * keys + values, { matrixRows: both[0], order: qkv }));
    push("in_proj_qkvz.weight", "attn_gate.weight", both, whole(values, { matrixRows: both[0], order: gate }));
    push("in_proj_ba.weight", "ssm_ba.weight", [2 * valueHeadCount, hiddenSize]);
  } else {
    push("in_proj_qkv.weight", "attn_qkv.weight", [2 * keys + values, hiddenSize], mixed);
    push("in_proj_z.weight", "attn_gate.weight", [values, hiddenSize], tiled(valueDim));
    push("in_proj_b.weight", "ssm_beta.weight", [valueHeadCount, hiddenSize], tiled(1));
    push("in_proj_a.weight", "ssm_alpha.weight", [valueHeadCount, hiddenSize], tiled(1));
  }
  push("conv1d.weight", "ssm_conv1d.weight", [2 * keys + values, 1, kernelSize], {
    ggufShape: [2 * keys + values, kernelSize],
    ...mixed,
  });
  push("A_log", "ssm_a", [valueHeadCount], { values: "minus exp", ...tiled(1) });
  push("dt_bias", "ssm_dt.bias", [valueHeadCount], tiled(1));
  push("norm.weight", "ssm_norm.weight", [valueDim]);
  push("out_proj.weight", "ssm_out.weight", [hiddenSize, values], order === undefined ? {} : { columns: order });
}

/** Rows of values in another order behind those of queries and keys. */
function behindKeys(keyRows: number, order: Int32Array): Int32Array {
  return Int32Array.from({ length: keyRows + order.length }, (_, row) =>
    row < keyRows ? row : keyRows + order[row - keyRows],
  );
}

/** Rows that lie key head by key head, each with its q, k, v, z, as they stand in the file's two tensors. */
function ungroupedRows({ keyHeadCount, valueHeadCount, keyDim, valueDim }: DeltaRule) {
  const share = (valueHeadCount / keyHeadCount) * valueDim;
  const group = 2 * keyDim + 2 * share;
  const part = (first: number, length: number): number[] =>
    Array.from({ length: keyHeadCount * length }, (_, row) => {
      const head = Math.floor(row / length);
      return head * group + first + (row % length);
    });
  const qkv = [...part(0, keyDim), ...part(keyDim, keyDim), ...part(2 * keyDim, share)];
  return { qkv: Int32Array.from(qkv), gate: Int32Array.from(part(2 * keyDim + share, share)) };
}
