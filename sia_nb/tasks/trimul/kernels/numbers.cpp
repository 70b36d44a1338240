// Number formats and the sigmoid, for own passes of a CPU program.
#ifdef __AVX512F__
#pragma GCC target("prefer-vector-width=512")  // g++ halves its vectors otherwise, for the clock of older processors
#endif
#include <cmath>
#include <cstdint>
#include <cstring>

static inline float widen(uint16_t value) {  // bfloat16 to float32
    uint32_t bits = uint32_t(value) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

static inline float widen(float value) { return value; }

static inline uint16_t narrow(float value) {  // float32 to bfloat16, to the nearest and in a tie to even
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float reciprocal(float x) {  // of a positive x: a guess from its bits, 12 % off at most, and three of Newton's steps
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits = 0x7ef311c7 - bits;
    float y;
    std::memcpy(&y, &bits, 4);
    y *= 2.0f - x * y;
    y *= 2.0f - x * y;
    return y * (2.0f - x * y);
}

static inline float sigmoid(float x) {  // by exp(-x) = 2^whole 2^rest, the latter by a polynomial
    float t = -x * 1.44269504f;
    t = t < -126.0f ? -126.0f : t > 120.0f ? 120.0f : t;
    float whole = std::nearbyint(t), r = t - whole;
    float p = 1.33335581e-3f;
    p = p * r + 9.61812911e-3f;
    p = p * r + 5.55041087e-2f;
    p = p * r + 2.40226507e-1f;
    p = p * r + 6.93147181e-1f;
    p = p * r + 1.0f;
    uint32_t bits = uint32_t(int32_t(whole) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return reciprocal(1.0f + p * scale);
}
