// The whole update: left, right, o and the output's gate of one entry of the batch at a time, in memory that the next one uses
// again, o in the place of left. The product over k is of bfloat16 tiles too, three for one of float32.

// o = left right^T for each channel of sides [2 h, n, n], those of the left first; channels are stride values apart, of
// which 32 or more are room beyond their end.
static void product_all(float* sides, long n, long stride, long h) {
    long width = up(n, DEPTH), height = up(n, AT_ONCE), part = height * width, steps = width / DEPTH;
#pragma omp parallel
    {
        Tiles tiles;
        uint16_t *left = room(2 * part), *rows = room(2 * part), *right = room(2 * part);
        for (uint16_t* rest : {left, rows})  // what is beyond n rows stays zero
            std::fill(rest, rest + 2 * part, 0);
#pragma omp for
        for (long channel = 0; channel < h; channel++) {
            float* o = sides + channel * stride;
            round_rows(o, left, left + part, n, n);
            round_rows(sides + (h + channel) * stride, rows, rows + part, n, n);
            for (long j = 0; j < 2 * height; j += SIDE) tile_rows(rows + j * width, right + j * width, width);
            for (long i = 0; i < n; i += AT_ONCE)
                for (long j = up(n, AT_ONCE) - AT_ONCE; j >= 0; j -= AT_ONCE) {  // what goes over a row's end is written later
                    alignas(64) float sums[AT_ONCE][AT_ONCE];
                    Operands in = {
                        left + i * width, right + j * width, SIDE * width, width, DEPTH, part, SIDE * width, part, steps};
                    multiply<true, true>(in, {sums[0], AT_ONCE, SIDE * AT_ONCE, SIDE});
                    for (long row = i; row < std::min(n, i + AT_ONCE); row++)
                        std::memcpy(o + row * n + j, sums[row - i], sizeof sums[0]);
                }
        }
        for (uint16_t* used : {left, rows, right}) std::free(used);
    }
}

struct Update {
    const float *x, *scale, *shift, *mask, *projections[5], *out_scale, *out_shift, *to_out;
    float* y;
    long batch, n, c, h;
};

template <bool W_LOW, bool X_LOW, bool O_LOW, bool OUT_LOW>
static void update(const Update& u) {
    // Room beyond a channel's end for product_all; and a power of two would have all channels in one set of a cache.
    long positions = u.n * u.n, stride = up(positions, AT_ONCE) + AT_ONCE;
    uint16_t *w = pack_projections<W_LOW>(u.projections, u.c, u.h), *out = pack_output<OUT_LOW>(u.to_out, u.c, u.h);
    uint16_t* gates = room(u.h * stride);
    float* sides = static_cast<float*>(std::aligned_alloc(64, 4 * 2 * u.h * stride));
    for (long b = 0; b < u.batch; b++) {
        const float *x = u.x + b * positions * u.c, *mask = u.mask + b * positions;
        float* y = u.y + b * positions * u.c;
        project_all<W_LOW, X_LOW>(x, u.scale, u.shift, mask, w, sides, gates, 1, positions, stride, u.c, u.h);
        product_all(sides, u.n, stride, u.h);
        output_all<O_LOW, OUT_LOW>(sides, gates, u.out_scale, u.out_shift, out, y, 1, positions, stride, u.h, u.c);
    }
    std::free(w);
    std::free(out);
    std::free(gates);
    std::free(sides);
}

template <bool W_LOW, bool X_LOW>
static void update_as(const Update& u, long out_products) {
    auto all = out_products == 1 ? update<W_LOW, X_LOW, false, false>
               : out_products == 2 ? update<W_LOW, X_LOW, true, false>
                                   : update<W_LOW, X_LOW, true, true>;
    all(u);
}

extern "C" void whole(
    const float* x, const float* scale, const float* shift, const float* mask, const float* left, const float* right,
    const float* left_gate, const float* right_gate, const float* out_gate, const float* out_scale, const float* out_shift,
    const float* to_out, float* y, long batch, long n, long c, long h, long products, long out_products) {
    auto all = products == 1 ? update_as<false, false> : products == 2 ? update_as<false, true> : update_as<true, true>;
    const Update u = {
        x, scale, shift, mask, {left, right, left_gate, right_gate, out_gate}, out_scale, out_shift, to_out, y, batch, n, c, h};
    all(u, out_products);
}
