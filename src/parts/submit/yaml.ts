/** Plain data as YAML that needs no more than YAML 1.2's core: block mappings and lists, strings quoted as in JSON. */
export type YamlValue = string | number | boolean | readonly YamlValue[] | { readonly [key: string]: YamlValue };

export function toYaml(value: { readonly [key: string]: YamlValue }): string {
  return mapping(value, "");
}

function mapping(value: { readonly [key: string]: YamlValue }, indent: string): string {
  return Object.entries(value)
    .map(([key, inner]) => `${indent}${/^[\w./-]+$/.test(key) ? key : JSON.stringify(key)}:${member(inner, indent)}`)
    .join("");
}

function member(value: YamlValue, indent: string): string {
  if (typeof value !== "object") return ` ${scalar(value)}\n`;
  if (isList(value)) {
    if (value.every((item) => typeof item !== "object")) return ` [${value.map((item) => scalar(item)).join(", ")}]\n`;
    return `\n${value.map((item) => listItem(item, indent)).join("")}`;
  }
  return `\n${mapping(value, `${indent}  `)}`;
}

function listItem(value: YamlValue, indent: string): string {
  if (typeof value !== "object" || isList(value)) return `${indent}-${member(value, `${indent}  `)}`;
  // The first key stands behind the dash.
  return `${indent}- ${mapping(value, `${indent}  `).slice(indent.length + 2)}`;
}

function isList(value: YamlValue): value is readonly YamlValue[] {
  return Array.isArray(value);
}

/** A plain word only where nobody could read it as something else. */
function scalar(value: YamlValue): string {
  if (typeof value !== "string") return String(value);
  const isWord = /^[A-Za-z][\w./-]*$/.test(value) && !/^(?:true|false|null|yes|no|on|off|y|n)$/i.test(value);
  return isWord ? value : JSON.stringify(value);
}
