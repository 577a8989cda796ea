/** What a matrix of a decoder layer is for, as its name says. */
export type MatrixKind =
  | "attention in"
  | "attention out"
  | "MLP in"
  | "MLP out"
  | "expert"
  | "linear attention"
  | "latent"
  | "matrix";

const LINEAR_ATTENTION =
  /(?:^|\.)(?:linear_attn|mixer|mamba|ssm|short_?conv|conv|time_mix|tmix|delta_net|recurrent|temporal_block|rg_lru)(?:\.|$)/;
/** Low-rank halves of queries, keys and values (DeepSeek's latent attention). */
const LATENT = /^w?(?:q|kv|k|v|o)_[ab](?:_|$)/;
const ATTENTION_NAME =
  /^(?:[qkv]|[qkv]_proj|qkv(?:_proj)?|w[qkv]|wqkv|query|key|value|query_key_value|c_attn|q_attn|att_proj)$/i;
const ATTENTION_OUT = /^(?:o|o_proj|out_proj|out|dense|c_proj|wo|attn_out|attn_output|output)$/;
const MLP_IN =
  /^(?:gate_proj|up_proj|gate_up_proj|fc1|fc_in|c_fc|dense_h_to_4h|w[13]|v1|wi(?:_\d)?|ff_proj|input_linear)$/;
const MLP_OUT = /^(?:down_proj|fc2|fc_out|c_proj|dense_4h_to_h|w2|wo|ff_out|output_linear)$/;

/** `module`: the path inside the layer without numbers and `.weight`, as `mlp.experts.down_proj`. */
export function matrixKind(module: string): MatrixKind {
  const last = module.slice(module.lastIndexOf(".") + 1);
  if (/expert|moe/i.test(module)) return "expert";
  if (/(?:^|\.)linear_attn\./.test(module)) return "linear attention";
  if (LATENT.test(last)) return "latent";
  if (ATTENTION_NAME.test(last)) return "attention in";
  if (last === "o_proj") return "attention out";
  if (/attn|attention/i.test(module)) return ATTENTION_OUT.test(last) ? "attention out" : "attention in";
  if (MLP_OUT.test(last)) return "MLP out";
  if (MLP_IN.test(last)) return "MLP in";
  if (LINEAR_ATTENTION.test(module)) return "linear attention";
  if (/(?:^|\.)(?:mlp|ffn|ff|feed_forward)(?:\.|$)/.test(module)) return "MLP in";
  return last === "out_proj" || last === "attn_out" ? "attention out" : "matrix";
}
