// Products of bfloat16 tiles, summed in float32, by AMX where the processor has it; and rows of float32 as such tiles.
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

// count of AT_ONCE values; a copy whose length is known is two instructions.
template <typename T>
static void copy_some(T* to, const T* from, long count) {
    if (count == AT_ONCE)
        std::memcpy(to, from, AT_ONCE * sizeof(T));
    else
        std::memcpy(to, from, count * sizeof(T));
}

// high [rows, up(columns, 32)] and, where low is not null, what rounding took.
static void round_rows(const float* from, uint16_t* high, uint16_t* low, long rows, long columns) {
    long width = up(columns, DEPTH);
    for (long i = 0; i < rows; i++, from += columns, high += width, low += low ? width : 0)
        for (long k = 0; k < width; k += DEPTH) {
            alignas(64) float values[DEPTH] = {};
            if (columns - k >= DEPTH)
                std::memcpy(values, from + k, sizeof values);
            else
                std::memcpy(values, from + k, 4 * (columns - k));
#pragma omp simd
            for (long j = 0; j < DEPTH; j++) high[k + j] = narrow(values[j]);
            if (!low) continue;
#pragma omp simd
            for (long j = 0; j < DEPTH; j++) low[k + j] = narrow(values[j] - widen(high[k + j]));
        }
}

// Tiles of 32 x 16 from 16 rows of width values each.
static void tile_rows(const uint16_t* rows, uint16_t* tiles, long width) {
    for (long k = 0; k < width / DEPTH; k++)
        turn(reinterpret_cast<const uint32_t*>(rows + k * DEPTH), width / 2, reinterpret_cast<uint32_t*>(tiles + k * TILE), SIDE);
}
