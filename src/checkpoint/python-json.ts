/**
 * JSON as Python's `json` module writes and reads it: a byte order mark before it, and the bare words NaN, Infinity and
 * -Infinity
 * for numbers, which become null. Throws `SyntaxError` for what is no JSON even so.
 */
export function parsePythonJson(bytes: Uint8Array): unknown {
  // TextDecoder drops the mark.
  const text = new TextDecoder().decode(bytes);
  try {
    return JSON.parse(text);
  } catch (error) {
    if (!/NaN|Infinity/.test(text)) throw error;
    // Strings are matched first, so that the words in them stay.
    return JSON.parse(
      text.replace(/"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b/g, (token) => (token.startsWith('"') ? token : "null")),
    );
  }
}
