// What lies between the products of the triangular update, each in one pass over memory.
// rows [n, c] of x [n, c] normalised; kind 0: float32, 1: bfloat16, 2 and 3: [n, kind c] as the left operand of
// bfloat16x2 (rounded, rest) and bfloat16x3 (rounded, rounded, rest).
extern "C" void normalise(const float* x, const float* scale, const float* shift, void* rows, long n, long c, int kind) {
#pragma omp parallel for
    for (long i = 0; i < n; i++) {
        const float* from = x + i * c;
        float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (long j = 0; j < c; j++) sum += from[j];
        float mean = sum / c;
#pragma omp simd reduction(+ : squares)
        for (long j = 0; j < c; j++) squares += (from[j] - mean) * (from[j] - mean);
        float inverse = 1.0f / std::sqrt(squares / c + 1e-5f);
        if (kind == 0) {
            float* to = static_cast<float*>(rows) + i * c;
#pragma omp simd
            for (long j = 0; j < c; j++) to[j] = (from[j] - mean) * inverse * scale[j] + shift[j];
        } else {
            uint16_t* to = static_cast<uint16_t*>(rows) + i * c * kind;
#pragma omp simd
            for (long j = 0; j < c; j++) to[j] = narrow((from[j] - mean) * inverse * scale[j] + shift[j]);
            if (kind == 3) std::memcpy(to + c, to, 2 * c);
            if (kind > 1) {
                uint16_t* rest = to + (kind - 1) * c;
#pragma omp simd
                for (long j = 0; j < c; j++)
                    rest[j] = narrow((from[j] - mean) * inverse * scale[j] + shift[j] - widen(to[j]));
            }
        }
    }
}

constexpr long TILE = 32;  // positions at a time: their channels stay in the first-level cache while they are turned

// sides [batch, 2 h, n] of p [batch, n, 5 h]: values sigmoid(gates) mask, with channels first.
template <typename T>
static void gate_all(const T* p, const float* mask, float* sides, long batch, long n, long h) {
    long tiles = (n + TILE - 1) / TILE;
#pragma omp parallel for
    for (long tile = 0; tile < batch * tiles; tile++) {
        long b = tile / tiles, first = tile % tiles * TILE, count = n - first < TILE ? n - first : TILE;
        alignas(64) float block[TILE][64];
        for (long c0 = 0; c0 < 2 * h; c0 += 64) {
            long width = 2 * h - c0 < 64 ? 2 * h - c0 : 64;
            for (long i = 0; i < count; i++) {
                const T* values = p + (b * n + first + i) * 5 * h + c0;
                float m = mask[b * n + first + i];
#pragma omp simd
                for (long c = 0; c < width; c++) block[i][c] = widen(values[c]) * sigmoid(widen(values[2 * h + c])) * m;
            }
            for (long c = 0; c < width; c++) {
                float* to = sides + (b * 2 * h + c0 + c) * n + first;
                for (long i = 0; i < count; i++) to[i] = block[i][c];
            }
        }
    }
}

// rows [batch, n, h] of o [batch, h, n]: normalised over h, times the sigmoid of p's last h.
template <typename T>
static void finish_all(const float* o, const T* p, const float* scale, const float* shift, float* rows, long batch, long n, long h) {
    long tiles = (n + TILE - 1) / TILE;
#pragma omp parallel for
    for (long tile = 0; tile < batch * tiles; tile++) {
        long b = tile / tiles, first = tile % tiles * TILE, count = n - first < TILE ? n - first : TILE;
        alignas(64) float mean[TILE] = {}, inverse[TILE] = {};
        const float* from = o + b * h * n + first;
        for (long c = 0; c < h; c++)
#pragma omp simd
            for (long i = 0; i < count; i++) mean[i] += from[c * n + i];
        for (long i = 0; i < count; i++) mean[i] /= h;
        for (long c = 0; c < h; c++)
#pragma omp simd
            for (long i = 0; i < count; i++) inverse[i] += (from[c * n + i] - mean[i]) * (from[c * n + i] - mean[i]);
        for (long i = 0; i < count; i++) inverse[i] = 1.0f / std::sqrt(inverse[i] / h + 1e-5f);
        alignas(64) float block[TILE][64];
        for (long c0 = 0; c0 < h; c0 += 64) {
            long width = h - c0 < 64 ? h - c0 : 64;
            for (long c = 0; c < width; c++)
                for (long i = 0; i < count; i++) block[i][c] = (from[(c0 + c) * n + i] - mean[i]) * inverse[i];
            for (long i = 0; i < count; i++) {
                const T* gates = p + (b * n + first + i) * 5 * h + 4 * h + c0;
                float* to = rows + (b * n + first + i) * h + c0;
#pragma omp simd
                for (long c = 0; c < width; c++) to[c] = (block[i][c] * scale[c0 + c] + shift[c0 + c]) * sigmoid(widen(gates[c]));
            }
        }
    }
}

extern "C" void gate(const void* p, const float* mask, float* sides, long batch, long n, long h, int low) {
    if (low)
        gate_all(static_cast<const uint16_t*>(p), mask, sides, batch, n, h);
    else
        gate_all(static_cast<const float*>(p), mask, sides, batch, n, h);
}

extern "C" void finish(
    const float* o, const void* p, const float* scale, const float* shift, float* rows, long batch, long n, long h, int low) {
    if (low)
        finish_all(o, static_cast<const uint16_t*>(p), scale, shift, rows, batch, n, h);
    else
        finish_all(o, static_cast<const float*>(p), scale, shift, rows, batch, n, h);
}
