/**
 * JSON as Python's `json` module writes and reads it: a byte order mark before it, and the bare words NaN, Infinity and
 * -Infinity for numbers, which become null. Throws `SyntaxError` for what is no JSON even so, `TypeError` for bytes
 * that are no UTF-8.
 */
export function parsePythonJson(source: Uint8Array | string): unknown {
  const decoded = typeof source === "string" ? source : new TextDecoder("utf-8", { fatal: true }).decode(source);
  const text = decoded.replace(/^\uFEFF/, "");
  try {
    return JSON.parse(text);
  } catch (error) {
    // Strings are matched whole, so that the words in them stay.
    const plain = text.replace(/"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b/g, (found) =>
      found.startsWith('"') ? found : "null",
    );
    if (plain === text) throw error;
    return JSON.parse(plain);
  }
}
