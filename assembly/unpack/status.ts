// What decoding a band comes to; FAULTS in src/pack/band-format.ts has the words.

export const OK: u32 = 0;
export const BAD_HEAD: u32 = 1;
export const BAD_LENGTH: u32 = 2;
export const BAD_TABLE: u32 = 3;
export const BAD_STREAM: u32 = 4;
export const BAD_COUNT: u32 = 5;
export const BAD_EXPONENT: u32 = 6;
