/**
 * A JSON object in llama.cpp's own notation of grammars. White space is one character at most between two signs: a
 * model that is held to JSON and has nothing to say would fill its answer with it.
 */
export const objectGrammar = String.raw`root ::= object
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" gap (member ("," gap member)*)? "}"
member ::= string gap ":" gap value gap
array ::= "[" gap (value gap ("," gap value gap)*)? "]"
string ::= "\"" ([^"\\\x00-\x1f\x7f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F]))* "\""
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?
gap ::= [ \n]?
`;

/** Whether an answer is JSON, or may be the beginning of it where it was not written to its end. */
export function looksLikeJson(text: string, isWhole: boolean): boolean {
  return isWhole ? isWholeJson(text) : /^\s*(?:$|[[{"\d-]|t(?:r|$)|f(?:a|$)|n(?:u|$))/.test(text);
}

export function isWholeJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
