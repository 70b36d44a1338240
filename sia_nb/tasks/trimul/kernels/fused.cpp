// The triangular update in two passes around its product over k: norm, projections, gates and mask; then norm, gate and the
// output's product. What calls them packs the weights before.
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

// Tiles of all five weights [h, c], each with its channels up to a multiple of 16; LOW: and of what rounding took, after them.
template <bool LOW>
static uint16_t* pack_projections(const float* const* weights, long c, long h) {
    long width = up(c, DEPTH), height = up(h, SIDE), all = 5 * height * width;
    uint16_t* w = room(all * (1 + LOW));
#pragma omp parallel
    {
        uint16_t* rows = room(2 * width);
#pragma omp for
        for (long part = 0; part < 5 * height; part++) {
            long at = part / height, i = part % height;
            if (i < h)
                round_rows(weights[at] + i * c, rows, LOW ? rows + width : nullptr, 1, c);
            else
                std::fill(rows, rows + 2 * width, 0);
            for (long k = 0; k < width / DEPTH; k++)
                for (long term = 0; term < 1 + LOW; term++) {
                    uint16_t* tile = w + term * all + part / SIDE * SIDE * width + k * TILE;
                    std::memcpy(tile + part % SIDE * DEPTH, rows + term * width + k * DEPTH, 2 * DEPTH);
                }
        }
        std::free(rows);
    }
    return w;
}

// sides [batch, 2 h, n], channels of the left first, and the output's gates [batch, h, n] in 1 / 65535, of x [batch, n, c] and
// w as packed; channels of sides and gates are stride values apart.
template <bool W_LOW, bool X_LOW>
static void project_all(
    const float* x, const float* scale, const float* shift, const float* mask, const uint16_t* w, float* sides, uint16_t* gates,
    long batch, long n, long stride, long c, long h) {
    long width = up(c, DEPTH), height = up(h, SIDE), steps = width / DEPTH, blocks = up(n, AT_ONCE) / AT_ONCE;
    long all = 5 * height * width;
#pragma omp parallel
    {
        Tiles tiles;
        uint16_t *rows = room(2 * SIDE * width), *right = room(4 * SIDE * width);
        float* line = static_cast<float*>(std::aligned_alloc(64, 4 * width));
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
                    float* place = sides + ((b * 2 + side) * h + channel + i) * stride + first;
                    copy_some(place, out, count);
                }
            }
            in.a_next = SIDE * width;
            for (long group = 0; group < height; group += 2 * SIDE) {
                if (group + SIDE >= height) in.a_next = 0;  // no second group: the first one twice
                in.a = w + (4 * height + group) * width;
                multiply<W_LOW, X_LOW>(in, to);
                for (long i = 0; i < std::min(2 * SIDE, h - group); i++) {
                    uint16_t* place = gates + (b * h + group + i) * stride + first;
                    alignas(64) uint16_t g[AT_ONCE];
#pragma omp simd
                    for (long j = 0; j < AT_ONCE; j++)
                        g[j] = uint16_t(int32_t(sigmoid(sums[i / SIDE][i % SIDE][j]) * 65535.0f + 0.5f));
                    copy_some(place, g, count);
                }
            }
        }
        std::free(rows);
        std::free(right);
        std::free(line);
    }
}

// Tiles of the output's weight [c, h], its columns up to a multiple of 32; LOW: and of what rounding took, after them.
template <bool LOW>
static uint16_t* pack_output(const float* w, long c, long h) {
    long depth = up(h, DEPTH), columns = up(c, AT_ONCE), all = columns * depth;
    uint16_t* right = room(all * (1 + LOW));
#pragma omp parallel
    {
        uint16_t* rows = room(2 * SIDE * depth);
#pragma omp for
        for (long group = 0; group < columns; group += SIDE) {
            long there = std::max(0L, std::min(SIDE, c - group));
            std::fill(rows, rows + 2 * SIDE * depth, 0);
            round_rows(w + group * h, rows, LOW ? rows + SIDE * depth : nullptr, there, h);
            tile_rows(rows, right + group * depth, depth);
            if (LOW) tile_rows(rows + SIDE * depth, right + all + group * depth, depth);
        }
        std::free(rows);
    }
    return right;
}

// y [batch, n, c]: o [batch, h, n] normalised over h, gated, times w [c, h] as packed; channels of o and gates are stride
// values apart.
template <bool LOW, bool W_LOW>
static void output_all(
    const float* o, const uint16_t* gates, const float* scale, const float* shift, const uint16_t* right, float* y, long batch,
    long n, long stride, long h, long c) {
    long depth = up(h, DEPTH), columns = up(c, AT_ONCE), blocks = up(n, AT_ONCE) / AT_ONCE, all = columns * depth;
#pragma omp parallel
    {
        Tiles tiles;
        uint16_t* left = room(2 * AT_ONCE * depth);
        auto high = static_cast<uint32_t*>(std::aligned_alloc(64, 2 * AT_ONCE * depth)), low = high;  // pairs of channels
        if (LOW) low = static_cast<uint32_t*>(std::aligned_alloc(64, 2 * AT_ONCE * depth));
        auto values = static_cast<float*>(std::aligned_alloc(64, 4 * AT_ONCE * depth));
        std::fill(values + h * AT_ONCE, values + depth * AT_ONCE, 0.0f);
#pragma omp for
        for (long block = 0; block < batch * blocks; block++) {
            long b = block / blocks, first = block % blocks * AT_ONCE, count = std::min(AT_ONCE, n - first);
            alignas(64) float mean[AT_ONCE] = {}, inverse[AT_ONCE] = {}, sums[AT_ONCE][AT_ONCE];
            alignas(64) uint16_t g[AT_ONCE] = {};
            for (long k = 0; k < h; k++) {  // a copy, since channels stride values apart may share one set of the cache
                float* to = values + k * AT_ONCE;
                if (count < AT_ONCE) std::fill(to, to + AT_ONCE, 0.0f);
                copy_some(to, o + (b * h + k) * stride + first, count);
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
                copy_some(g, gates + (b * h + k) * stride + first, count);
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
        std::free(left);
        std::free(values);
        std::free(high);
        if (LOW) std::free(low);
    }
}
