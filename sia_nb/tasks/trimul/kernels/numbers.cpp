// Number formats and the sigmoid, for own passes of a CPU program.
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

static inline float sigmoid(float x) {  // by exp(-x) = 2^whole 2^rest, the latter by a polynomial
    float t = -x * 1.44269504f;
    t = t < -126.0f ? -126.0f : t > 126.0f ? 126.0f : t;
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
    return 1.0f / (1.0f + p * scale);
}
