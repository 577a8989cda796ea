/**
 * The colours of sparsity: from the paper to the far end of one hue path, lightness falling (or, in dark mode, rising)
 * evenly, so that the order survives grey-scale print and colour blindness.
 */
export const RAMP_STEPS = 24;

type Oklch = readonly [lightness: number, chroma: number, hue: number];

const LIGHT: readonly Oklch[] = [
  [0.955, 0.022, 98],
  [0.86, 0.1, 94],
  [0.72, 0.13, 80],
  [0.52, 0.115, 58],
  [0.32, 0.07, 42],
];
const DARK: readonly Oklch[] = [
  [0.255, 0.014, 110],
  [0.38, 0.05, 80],
  [0.56, 0.1, 72],
  [0.78, 0.145, 86],
  [0.95, 0.09, 102],
];

/** The step of a value on a ramp from `min` to `max`. */
export function rampStep(value: number, min: number, max: number): number {
  if (!(max > min)) return Math.floor(RAMP_STEPS / 2);
  const share = (value - min) / (max - min);
  return Math.min(RAMP_STEPS - 1, Math.max(0, Math.floor(share * RAMP_STEPS)));
}

/** A picture's range: differences under two percentage points are noise and are not blown up to the whole ramp. */
export function rampRange(min: number, max: number): [number, number] {
  const span = Math.max(max - min, 0.02);
  const middle = (min + max) / 2;
  const low = Math.max(0, middle - span / 2);
  return [low, low + span];
}

/** `--h0:#f4f0e1;--t0:#000;…` for one of the two schemes: each step and the ink for text on it. */
export function rampVariables(scheme: "light" | "dark"): string {
  return rampColours(scheme)
    .map((colour, step) => `--h${step}:${colour};--t${step}:${inkOn(colour)}`)
    .join(";");
}

export function rampColours(scheme: "light" | "dark"): string[] {
  const points = scheme === "light" ? LIGHT : DARK;
  return Array.from({ length: RAMP_STEPS }, (_, step) => {
    const at = (step / (RAMP_STEPS - 1)) * (points.length - 1);
    const i = Math.min(points.length - 2, Math.floor(at));
    const mix = (k: 0 | 1 | 2) => points[i][k] + (points[i + 1][k] - points[i][k]) * (at - i);
    return oklchToHex([mix(0), mix(1), mix(2)]);
  });
}

/** Black or white, whichever contrasts more: one of them always reaches 4.5 to 1. */
function inkOn(colour: string): string {
  const light = luminance(colour);
  return (light + 0.05) ** 2 > 1.05 * 0.05 ? "#000" : "#fff";
}

/** source: WCAG 2.2, definition of relative luminance */
export function luminance(hex: string): number {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const value = Number.parseInt(hex.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** source: Ottosson 2020, "A perceptual color space for image processing" (matrices as published) */
export function oklchToHex([lightness, chroma, hue]: Oklch): string {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const channels = linear.map((value) => {
    const v = Math.min(1, Math.max(0, value));
    const encoded = v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055;
    return Math.round(encoded * 255)
      .toString(16)
      .padStart(2, "0");
  });
  return `#${channels.join("")}`;
}
