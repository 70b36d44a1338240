// The vertical scale of the timeline: linear, or with the empty stretch below the later steps compressed.

const PAD = 0.1; // of the range, above and below
const GAP = 0.45; // an empty stretch of at least this share of the range may be compressed
const FEW = 0.34; // at most this share of the steps may lie below it
const FOOT = 16, BREAK = 20; // px for what lies below the stretch, and for the stretch

/**
 * A function from score to y in [bottom, top], with its ticks.
 *
 * scored: [{score, se}]; whole: never compress. `broken` is the y of the compressed stretch, null without one;
 * `breakable` says whether there is one to compress.
 */
export function scale(scored, top, bottom, whole = false) {
  const ends = scored.flatMap((s) => [s.score - (s.se || 0), s.score + (s.se || 0)]);
  const [low, high] = ends.length ? padded(Math.min(...ends), Math.max(...ends)) : [0, 1];
  const gap = emptyStretch(scored);
  if (!gap || whole) {
    const y = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
    return { y, ticks: ticks(low, high), broken: null, breakable: Boolean(gap) };
  }
  const upper = scored.filter((s) => s.score >= gap[1]), lower = scored.filter((s) => s.score <= gap[0]);
  const least = Math.min(...upper.map((s) => s.score - (s.se || 0))), most = Math.max(...upper.map((s) => s.score + (s.se || 0)));
  const [from, to] = padded(least, most), foot = Math.max(...lower.map((s) => s.score));
  const start = Math.min(low, foot - 1e-9), floor = bottom - FOOT, ceiling = floor - BREAK;
  const knots = [[start, bottom], [foot, floor], [Math.max(from, foot + 1e-9), ceiling], [to, top]];
  const y = (v) => {
    const k = knots.findIndex(([value], i) => i > 0 && (v <= value || i === knots.length - 1));
    const [[a, ya], [b, yb]] = [knots[k - 1], knots[k]];
    return ya + ((v - a) / (b - a)) * (yb - ya);
  };
  return { y, ticks: ticks(knots[2][0], to), broken: (floor + ceiling) / 2, breakable: true };
}

/** [below, above]: the widest stretch without a score, where it is wide and few steps lie below it; else null. */
function emptyStretch(scored) {
  const sorted = scored.map((s) => s.score).sort((a, b) => a - b), range = sorted.at(-1) - sorted[0];
  if (sorted.length < 3 || !(range > 0)) return null;
  const at = sorted.slice(1).reduce((best, v, i) => (v - sorted[i] > sorted[best + 1] - sorted[best] ? i : best), 0);
  const few = (at + 1) / sorted.length <= FEW;
  return sorted[at + 1] - sorted[at] >= GAP * range && few ? [sorted[at], sorted[at + 1]] : null;
}

function padded(low, high) {
  const pad = (high - low || Math.abs(high) || 1) * PAD;
  return [low - pad, high + pad];
}

function ticks(low, high) {
  const raw = (high - low) / 4, power = 10 ** Math.floor(Math.log10(raw));
  const size = [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= raw * (1 - 1e-9));
  const out = [];
  for (let v = Math.ceil(low / size) * size; v <= high + size * 1e-9; v += size) out.push(v);
  return out;
}
