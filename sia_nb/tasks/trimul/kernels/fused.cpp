// The triangular update in two passes around its product over k: norm, projections, gates and mask; then norm, gate and the
// output's product. Products are of bfloat16 tiles, summed in float32, by AMX where the processor has it.
#include <algorithm>
#include <cstdlib>
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define TILES
#endif

constexpr long SIDE = 16, DEPTH = 32, TILE = SIDE * DEPTH;  // a tile: 16 rows of 32 values, or 16 columns as pairs of rows
constexpr long AT_ONCE = 2 * SIDE;                          // positions

static long up(long value, long step) { return (value + step - 1) / step * step; }

static uint16_t* room(long values) {
    return static_cast<uint16_t*>(std::aligned_alloc(64, up(2 * values, 64)));
}

// Left operand a: two groups of 16 rows, the second at a + a_next, whose next 32 values are a_step further; right operand b:
// tiles of 32 x 16, two groups of columns likewise. What rounding took from them stands at a + a_low and b + b_low.
struct Operands {
    const uint16_t *a, *b;
    long a_next, a_stride, a_step, a_low, b_next, b_low, steps;
};

// to + group of a * a_next + group of b * b_next: 16 x 16 sums, rows stride apart.
struct Sums {
    float* to;
    long stride, a_next, b_next;
};

template <bool A_LOW, bool B_LOW>
static void multiply_plainly(const Operands& in, const Sums& out) {
    for (int group = 0; group < 4; group++) {
        float sums[SIDE][SIDE] = {};
        const uint16_t *a = in.a + group / 2 * in.a_next, *b = in.b + group % 2 * in.b_next;
        for (long k = 0; k < in.steps * SIDE; k++)
            for (long i = 0; i < SIDE; i++)
                for (int half = 0; half < 2; half++) {
                    const uint16_t* left = a + k / SIDE * in.a_step + i * in.a_stride + k % SIDE * 2 + half;
                    const uint16_t* right = b + k * DEPTH + half;
                    float high = widen(*left), low = A_LOW ? widen(left[in.a_low]) : 0.0f;
                    for (long j = 0; j < SIDE; j++) {
                        float other = widen(right[2 * j]);
                        sums[i][j] += (high + low) * other;
                        if (B_LOW) sums[i][j] += high * widen(right[2 * j + in.b_low]);
                    }
                }
        float* to = out.to + group / 2 * out.a_next + group % 2 * out.b_next;
        for (long i = 0; i < SIDE; i++) std::memcpy(to + i * out.stride, sums[i], sizeof sums[i]);
    }
}

#ifdef TILES
static bool tiles_allowed() {  // by the kernel, which each process asks once (ARCH_REQ_XCOMP_PERM, XTILEDATA)
    static const bool allowed = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
    return allowed;
}

template <bool A_LOW, bool B_LOW>
static void multiply_tiles(const Operands& in, const Sums& out) {
    auto left = [&](const uint16_t* a) {
        _tile_loadd(4, a, 2 * in.a_stride);
        _tile_loadd(5, a + in.a_next, 2 * in.a_stride);
    };
    auto right = [&](const uint16_t* b) {
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + in.b_next, 64);
    };
    auto add = [] {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    };
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long k = 0; k < in.steps; k++) {
        const uint16_t *a = in.a + k * in.a_step, *b = in.b + k * TILE;
        left(a);
        if (B_LOW) {
            right(b + in.b_low);
            add();
        }
        right(b);
        add();
        if (A_LOW) {
            left(a + in.a_low);
            add();
        }
    }
    _tile_stored(0, out.to, 4 * out.stride);
    _tile_stored(1, out.to + out.b_next, 4 * out.stride);
    _tile_stored(2, out.to + out.a_next, 4 * out.stride);
    _tile_stored(3, out.to + out.a_next + out.b_next, 4 * out.stride);
}

struct Tiles {  // this thread's tile registers as multiply_tiles wants them
    Tiles() {
        if (!tiles_allowed()) return;
        alignas(64) uint8_t shape[64] = {1};
        for (int i = 0; i < 8; i++) shape[16 + 2 * i] = 64, shape[48 + i] = 16;
        _tile_loadconfig(shape);
    }
    ~Tiles() {
        if (tiles_allowed()) _tile_release();
    }
};
#else
struct Tiles {
    Tiles() {}
};
#endif

template <bool A_LOW, bool B_LOW>
static void multiply(const Operands& in, const Sums& out) {
#ifdef TILES
    if (tiles_allowed()) return multiply_tiles<A_LOW, B_LOW>(in, out);
#endif
    multiply_plainly<A_LOW, B_LOW>(in, out);
}

// to [16, 16] with from's rows as columns; strides in words.
static void turn(const uint32_t* from, long from_stride, uint32_t* to, long to_stride) {
#ifdef __AVX512F__
    __m512i r[16], t[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(from + i * from_stride);
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + 2 + j]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + 2 + j]);
        }
    for (int j = 0; j < 4; j++) {
        __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), b = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88), d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
        _mm512_storeu_si512(to + j * to_stride, _mm512_shuffle_i32x4(a, c, 0x88));
        _mm512_storeu_si512(to + (4 + j) * to_stride, _mm512_shuffle_i32x4(b, d, 0x88));
        _mm512_storeu_si512(to + (8 + j) * to_stride, _mm512_shuffle_i32x4(a, c, 0xdd));
        _mm512_storeu_si512(to + (12 + j) * to_stride, _mm512_shuffle_i32x4(b, d, 0xdd));
    }
#else
    for (long i = 0; i < SIDE; i++)
        for (long j = 0; j < SIDE; j++) to[j * to_stride + i] = from[i * from_stride + j];
#endif
}

// high [rows, up(columns, 32)] and, where low is not null, what rounding took.
static void round_rows(const float* from, uint16_t* high, uint16_t* low, long rows, long columns) {
    long width = up(columns, DEPTH);
    for (long i = 0; i < rows; i++, from += columns, high += width) {
#pragma omp simd
        for (long j = 0; j < columns; j++) high[j] = narrow(from[j]);
        std::fill(high + columns, high + width, 0);
        if (!low) continue;
#pragma omp simd
        for (long j = 0; j < columns; j++) low[j] = narrow(from[j] - widen(high[j]));
        std::fill(low + columns, low + width, 0);
        low += width;
    }
}

// Tiles of 32 x 16 from 16 rows of width values each.
static void tile_rows(const uint16_t* rows, uint16_t* tiles, long width) {
    for (long k = 0; k < width / DEPTH; k++)
        turn(reinterpret_cast<const uint32_t*>(rows + k * DEPTH), width / 2, reinterpret_cast<uint32_t*>(tiles + k * TILE), SIDE);
}

static void normalise(const float* from, const float* scale, const float* shift, float* to, long c) {
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < c; j++) sum += from[j];
    float mean = sum / c;
#pragma omp simd reduction(+ : squares)
    for (long j = 0; j < c; j++) squares += (from[j] - mean) * (from[j] - mean);
    float inverse = 1.0f / std::sqrt(squares / c + 1e-5f);
#pragma omp simd
    for (long j = 0; j < c; j++) to[j] = (from[j] - mean) * inverse * scale[j] + shift[j];
}

// sides [batch, 2 h, n], channels of the left first, and the output's gates [batch, h, n] in 1 / 65535, of x [batch, n, c].
template <bool W_LOW, bool X_LOW>
static void project_all(
    const float* x, const float* scale, const float* shift, const float* mask, const float* const* weights, float* sides,
    uint16_t* gates, long batch, long n, long c, long h) {
    long width = up(c, DEPTH), height = up(h, SIDE), steps = width / DEPTH, blocks = up(n, AT_ONCE) / AT_ONCE;
    long all = 5 * height * width;
    uint16_t* w = room(all * (1 + W_LOW));
#pragma omp parallel
    {
        Tiles tiles;
        uint16_t *rows = room(2 * SIDE * width), *right = room(4 * SIDE * width);
        float* line = static_cast<float*>(std::aligned_alloc(64, 4 * width));
#pragma omp for
        for (long part = 0; part < 5 * height; part++) {
            long at = part / height, i = part % height;
            uint16_t *high = rows, *low = W_LOW ? rows + width : nullptr;
            if (i < h)
                round_rows(weights[at] + i * c, high, low, 1, c);
            else
                std::fill(high, high + 2 * width, 0);
            for (long k = 0; k < steps; k++)
                for (long term = 0; term < 1 + W_LOW; term++) {
                    uint16_t* tile = w + term * all + part / SIDE * SIDE * width + k * TILE;
                    std::memcpy(tile + part % SIDE * DEPTH, rows + term * width + k * DEPTH, 2 * DEPTH);
                }
        }
#pragma omp for
        for (long block = 0; block < batch * blocks; block++) {
            long b = block / blocks, first = block % blocks * AT_ONCE, count = std::min(AT_ONCE, n - first);
            for (long i = 0; i < AT_ONCE; i++) {
                uint16_t* high = rows + i % SIDE * width;
                uint16_t* low = X_LOW ? high + SIDE * width : nullptr;
                if (i < count) {
                    normalise(x + (b * n + first + i) * c, scale, shift, line, c);
                    round_rows(line, high, low, 1, c);
                } else {
                    std::fill(high, high + width, 0);
                    if (low) std::fill(low, low + width, 0);
                }
                if (i % SIDE == SIDE - 1) {
                    tile_rows(rows, right + i / SIDE * SIDE * width, width);
                    if (X_LOW) tile_rows(rows + SIDE * width, right + (2 + i / SIDE) * SIDE * width, width);
                }
            }
            alignas(64) float m[AT_ONCE] = {}, sums[2][SIDE][AT_ONCE], out[AT_ONCE];
            std::memcpy(m, mask + b * n + first, 4 * count);
            Operands in = {w, right, 2 * height * width, DEPTH, TILE, all, SIDE * width, 2 * SIDE * width, steps};
            Sums to = {sums[0][0], AT_ONCE, SIDE * AT_ONCE, SIDE};
            for (long group = 0; group < 2 * height; group += SIDE) {
                in.a = w + group * width;
                multiply<W_LOW, X_LOW>(in, to);
                long side = group / height, channel = group % height;
                for (long i = 0; i < std::min(SIDE, h - channel); i++) {
#pragma omp simd
                    for (long j = 0; j < AT_ONCE; j++) out[j] = sums[0][i][j] * sigmoid(sums[1][i][j]) * m[j];
                    float* place = sides + ((b * 2 + side) * h + channel + i) * n + first;
                    if (count == AT_ONCE)
                        std::memcpy(place, out, sizeof out);
                    else
                        std::memcpy(place, out, 4 * count);
                }
            }
            in.a_next = SIDE * width;
            for (long group = 0; group < height; group += 2 * SIDE) {
                if (group + SIDE >= height) in.a_next = 0;  // no second group: the first one twice
                in.a = w + (4 * height + group) * width;
                multiply<W_LOW, X_LOW>(in, to);
                for (long i = 0; i < std::min(2 * SIDE, h - group); i++) {
                    uint16_t* place = gates + (b * h + group + i) * n + first;
                    for (long j = 0; j < count; j++) place[j] = uint16_t(sigmoid(sums[i / SIDE][i % SIDE][j]) * 65535.0f + 0.5f);
                }
            }
        }
        std::free(rows);
        std::free(right);
        std::free(line);
    }
    std::free(w);
}

// y [batch, n, c]: o [batch, h, n] normalised over h, gated, times w [c, h].
template <bool LOW, bool W_LOW>
static void output_all(
    const float* o, const uint16_t* gates, const float* scale, const float* shift, const float* w, float* y, long batch, long n,
    long h, long c) {
    long depth = up(h, DEPTH), columns = up(c, AT_ONCE), blocks = up(n, AT_ONCE) / AT_ONCE, all = columns * depth;
    uint16_t* right = room(all * (1 + W_LOW));
#pragma omp parallel
    {
        Tiles tiles;
        uint16_t *rows = room(2 * SIDE * depth), *left = room(2 * AT_ONCE * depth);
        auto high = static_cast<uint32_t*>(std::aligned_alloc(64, 2 * AT_ONCE * depth)), low = high;  // pairs of channels
        if (LOW) low = static_cast<uint32_t*>(std::aligned_alloc(64, 2 * AT_ONCE * depth));
        auto values = static_cast<float*>(std::aligned_alloc(64, 4 * AT_ONCE * depth));
        std::fill(values + h * AT_ONCE, values + depth * AT_ONCE, 0.0f);
#pragma omp for
        for (long group = 0; group < columns; group += SIDE) {
            long there = std::max(0L, std::min(SIDE, c - group));
            std::fill(rows, rows + 2 * SIDE * depth, 0);
            round_rows(w + group * h, rows, W_LOW ? rows + SIDE * depth : nullptr, there, h);
            tile_rows(rows, right + group * depth, depth);
            if (W_LOW) tile_rows(rows + SIDE * depth, right + all + group * depth, depth);
        }
#pragma omp for
        for (long block = 0; block < batch * blocks; block++) {
            long b = block / blocks, first = block % blocks * AT_ONCE, count = std::min(AT_ONCE, n - first);
            alignas(64) float mean[AT_ONCE] = {}, inverse[AT_ONCE] = {}, sums[AT_ONCE][AT_ONCE];
            alignas(64) uint16_t g[AT_ONCE] = {};
            for (long k = 0; k < h; k++) {  // a copy, since rows n values apart may share one set of the cache
                float* to = values + k * AT_ONCE;
                if (count < AT_ONCE) std::fill(to, to + AT_ONCE, 0.0f);
                std::memcpy(to, o + (b * h + k) * n + first, 4 * count);
#pragma omp simd
                for (long i = 0; i < AT_ONCE; i++) mean[i] += to[i];
            }
            for (long i = 0; i < AT_ONCE; i++) mean[i] /= h;
            for (long k = 0; k < h; k++) {
                const float* from = values + k * AT_ONCE;
#pragma omp simd
                for (long i = 0; i < AT_ONCE; i++) inverse[i] += (from[i] - mean[i]) * (from[i] - mean[i]);
            }
            for (long i = 0; i < AT_ONCE; i++) inverse[i] = 1.0f / std::sqrt(inverse[i] / h + 1e-5f);
            for (long k = 0; k < h; k++) {
                std::memcpy(g, gates + (b * h + k) * n + first, 2 * count);
                float *row = values + k * AT_ONCE, s = scale[k], t = shift[k];
#pragma omp simd
                for (long i = 0; i < AT_ONCE; i++)
                    row[i] = ((row[i] - mean[i]) * inverse[i] * s + t) * (g[i] * (1 / 65535.0f));
            }
            for (long k = 0; k < depth; k += 2) {
                const float *one = values + k * AT_ONCE, *two = one + AT_ONCE;
                uint32_t *to = high + k / 2 * AT_ONCE, *rest = low + k / 2 * AT_ONCE;
#pragma omp simd
                for (long i = 0; i < AT_ONCE; i++) {
                    uint16_t a = narrow(one[i]), b = narrow(two[i]);
                    to[i] = a | uint32_t(b) << 16;
                    if (LOW) rest[i] = narrow(one[i] - widen(a)) | uint32_t(narrow(two[i] - widen(b))) << 16;
                }
            }
            for (long k = 0; k < depth / DEPTH; k++)
                for (long part = 0; part < 1 + LOW; part++)
                    for (long i = 0; i < 2; i++)
                        turn(
                            (part ? low : high) + k * SIDE * AT_ONCE + i * SIDE, AT_ONCE,
                            reinterpret_cast<uint32_t*>(left + (part * AT_ONCE + i * SIDE) * depth + k * DEPTH), depth / 2);
            Operands in = {left, right, SIDE * depth, depth, DEPTH, AT_ONCE * depth, SIDE * depth, all, depth / DEPTH};
            for (long group = 0; group < columns; group += AT_ONCE) {
                in.b = right + group * depth;
                float* place = y + (b * n + first) * c + group;
                if (count == AT_ONCE && group + AT_ONCE <= c) {
                    multiply<LOW, W_LOW>(in, {place, c, SIDE * c, SIDE});
                    continue;
                }
                multiply<LOW, W_LOW>(in, {sums[0], AT_ONCE, SIDE * AT_ONCE, SIDE});
                for (long i = 0; i < count; i++) std::memcpy(place + i * c, sums[i], 4 * std::min(AT_ONCE, c - group));
            }
        }
        std::free(rows);
        std::free(left);
        std::free(values);
        std::free(high);
        if (LOW) std::free(low);
    }
    std::free(right);
}

extern "C" void project(
    const float* x, const float* scale, const float* shift, const float* mask, const float* left, const float* right,
    const float* left_gate, const float* right_gate, const float* out_gate, float* sides, uint16_t* gates, long batch, long n,
    long c, long h, long products) {
    const float* weights[] = {left, right, left_gate, right_gate, out_gate};
    auto all = products == 1 ? project_all<false, false> : products == 2 ? project_all<false, true> : project_all<true, true>;
    all(x, scale, shift, mask, weights, sides, gates, batch, n, c, h);
}

extern "C" void output(
    const float* o, const uint16_t* gates, const float* scale, const float* shift, const float* w, float* y, long batch, long n,
    long h, long c, long products) {
    auto all = products == 1 ? output_all<false, false> : products == 2 ? output_all<true, false> : output_all<true, true>;
    all(o, gates, scale, shift, w, y, batch, n, h, c);
}
