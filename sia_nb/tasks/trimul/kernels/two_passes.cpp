// The two passes as functions of their own; left and right, o and the gates of the output are stored between them.
template <bool W_LOW, bool X_LOW>
static void project_once(
    const float* x, const float* scale, const float* shift, const float* mask, const float* const* weights, float* sides,
    uint16_t* gates, long batch, long n, long c, long h) {
    uint16_t* w = pack_projections<W_LOW>(weights, c, h);
    project_all<W_LOW, X_LOW>(x, scale, shift, mask, w, sides, gates, batch, n, n, c, h);
    std::free(w);
}

template <bool LOW, bool W_LOW>
static void output_once(
    const float* o, const uint16_t* gates, const float* scale, const float* shift, const float* weight, float* y, long batch,
    long n, long h, long c) {
    uint16_t* w = pack_output<W_LOW>(weight, c, h);
    output_all<LOW, W_LOW>(o, gates, scale, shift, w, y, batch, n, n, h, c);
    std::free(w);
}

extern "C" void project(
    const float* x, const float* scale, const float* shift, const float* mask, const float* left, const float* right,
    const float* left_gate, const float* right_gate, const float* out_gate, float* sides, uint16_t* gates, long batch, long n,
    long c, long h, long products) {
    const float* weights[] = {left, right, left_gate, right_gate, out_gate};
    auto all = products == 1 ? project_once<false, false> : products == 2 ? project_once<false, true> : project_once<true, true>;
    all(x, scale, shift, mask, weights, sides, gates, batch, n, c, h);
}

extern "C" void output(
    const float* o, const uint16_t* gates, const float* scale, const float* shift, const float* w, float* y, long batch, long n,
    long h, long c, long products) {
    auto all = products == 1 ? output_once<false, false> : products == 2 ? output_once<true, false> : output_once<true, true>;
    all(o, gates, scale, shift, w, y, batch, n, h, c);
}
