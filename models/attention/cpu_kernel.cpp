// Attention over packed texts on a CPU, in float32. `models/attention/cpu_kernel.py` builds and calls it.
//
// A text is taken head by head, and its queries in blocks, side by side in one or two registers, so that the softmax over the keys
// needs no sum across one. Nothing is padded but the last block. What a text gets depends on its own length alone.
//
// The vectors are those of GCC and Clang (https://gcc.gnu.org/onlinedocs/gcc/Vector-Extensions.html), as wide as the processor's:
// wider ones the compiler splits so badly that it takes 30 times as long.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float Lanes __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
// Queries whose sum of values is held in registers at a time, and vectors of their width.
constexpr int ROWS = 4, COLUMNS = 2;
// Of more keys the scores no longer stay in a core's nearest caches, and torch's attention is as fast or faster.
constexpr int MOST_KEYS = 512;

struct Rows {
    const float *data;
    int64_t stride;
    const float *operator[](int64_t row) const { return data + row * stride; }
    Rows from(int64_t row) const { return {data + row * stride, stride}; }
};

static inline Lanes &lanes(float *place) { return *reinterpret_cast<Lanes *>(place); }
static inline const Lanes &lanes(const float *place) { return *reinterpret_cast<const Lanes *>(place); }

// 2^x for x <= 0, within 2e-7 of it: a Taylor polynomial between -1/2 and 1/2, and the whole part added to the exponent.
static inline Lanes exp2(Lanes x) {
    x = x < -126.0f ? Lanes{} - 126.0f : x;
    Integers whole = __builtin_convertvector(x - 0.5f, Integers);
    Lanes part = x - __builtin_convertvector(whole, Lanes);
    Lanes sum = Lanes{} + 1.5353362e-4f;
    for (float factor : {1.3398874e-3f, 9.6184374e-3f, 5.5503325e-2f, 2.4022648e-1f, 6.9314720e-1f, 1.0f}) sum = sum * part + factor;
    return (Lanes)((Integers)sum + (whole << 23));
}

// Products of every query with KEYS keys. Queries lie (width, BLOCKS * LANES), scores (KEYS, BLOCKS * LANES).
template <int BLOCKS, int KEYS>
static inline void score(const float *queries, Rows key, float *scores, int width) {
    Lanes sums[KEYS][BLOCKS] = {};
    for (int w = 0; w < width; w++)
        for (int k = 0; k < KEYS; k++)
            for (int b = 0; b < BLOCKS; b++) sums[k][b] += key[k][w] * lanes(queries + (w * BLOCKS + b) * LANES);
    for (int k = 0; k < KEYS; k++)
        for (int b = 0; b < BLOCKS; b++) lanes(scores + (k * BLOCKS + b) * LANES) = sums[k][b];
}

// Scores become weights in their place; returns what each query's have to be multiplied by.
template <int BLOCKS>
static inline void softmax(float *scores, int keys, Lanes (&shares)[BLOCKS]) {
    for (int b = 0; b < BLOCKS; b++) {
        Lanes highest = lanes(scores + b * LANES), total = {};
        for (int k = 1; k < keys; k++) {
            Lanes one = lanes(scores + (k * BLOCKS + b) * LANES);
            highest = one > highest ? one : highest;
        }
        for (int k = 0; k < keys; k++) {
            Lanes &one = lanes(scores + (k * BLOCKS + b) * LANES);
            one = exp2(one - highest);
            total += one;
        }
        shares[b] = 1.0f / total;
    }
}

// The weighted sum of values for ROWS queries, of which `rows` are written, and VECTORS * LANES of their width.
template <int VECTORS>
static inline void add_values(const float *weights, int weights_stride, Rows value, const float *shares, float *output,
                              int64_t output_stride, int keys, int rows) {
    Lanes sums[ROWS][VECTORS] = {};
    for (int k = 0; k < keys; k++)
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < VECTORS; v++) sums[r][v] += weights[k * weights_stride + r] * lanes(value[k] + v * LANES);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++) lanes(output + r * output_stride + v * LANES) = sums[r][v] * shares[r];
}

// One block of at most BLOCKS * LANES queries of one head.
template <int BLOCKS>
static void attend_block(Rows query, Rows key, Rows value, float *output, int64_t output_stride, int queries, int keys, int width,
                         float scale, float *scratch) {
    constexpr int KEYS = BLOCKS == 1 ? 8 : 4, SIDE = BLOCKS * LANES;
    float *turned = scratch, *scores = scratch + width * SIDE;
    std::memset(turned, 0, width * SIDE * sizeof(float));
    for (int q = 0; q < queries; q++)
        for (int w = 0; w < width; w++) turned[w * SIDE + q] = query[q][w] * scale;
    int k = 0;
    for (; k + KEYS <= keys; k += KEYS) score<BLOCKS, KEYS>(turned, key.from(k), scores + k * SIDE, width);
    for (; k < keys; k++) score<BLOCKS, 1>(turned, key.from(k), scores + k * SIDE, width);
    Lanes shares[BLOCKS];
    softmax<BLOCKS>(scores, keys, shares);
    const float *share = reinterpret_cast<const float *>(shares);
    for (int q = 0; q < queries; q += ROWS) {
        int rows = std::min(ROWS, queries - q), w = 0;
        float *place = output + q * output_stride;
        for (; w + COLUMNS * LANES <= width; w += COLUMNS * LANES)
            add_values<COLUMNS>(scores + q, SIDE, {value[0] + w, value.stride}, share + q, place + w, output_stride, keys, rows);
        if (w < width)
            add_values<1>(scores + q, SIDE, {value[0] + w, value.stride}, share + q, place + w, output_stride, keys, rows);
    }
}

static bool is_cut(const int32_t *bounds, int64_t texts, int64_t tokens) {
    if (bounds[0] != 0 || bounds[texts] > tokens) return false;
    return std::is_sorted(bounds, bounds + texts + 1);
}

// States are (tokens, heads, width) with width contiguous; `strides` holds those of tokens and heads for query, key and value.
// The output is contiguous. Returns 0; 1 where the bounds do not cut the tokens into texts; 2 where a text has more than MOST_KEYS.
extern "C" int attend(const float *query, const float *key, const float *value, float *output, const int32_t *query_bounds,
                      const int32_t *key_bounds, int64_t texts, int64_t queries, int64_t keys, int64_t heads, int64_t width,
                      const int64_t *strides, float scale, int64_t threads) {
    if (!is_cut(query_bounds, texts, queries) || !is_cut(key_bounds, texts, keys)) return 1;
    int64_t longest = 0, output_stride = heads * width;
    for (int64_t s = 0; s < texts; s++) longest = std::max<int64_t>(longest, key_bounds[s + 1] - key_bounds[s]);
    if (longest > MOST_KEYS) return 2;
    // After the last text: nothing reads it.
    std::memset(output + query_bounds[texts] * output_stride, 0, (queries - query_bounds[texts]) * output_stride * sizeof(float));
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        static thread_local std::vector<float> scratch;
        scratch.resize((width + longest) * 2 * LANES);
#pragma omp for schedule(guided)
        for (int64_t item = 0; item < texts * heads; item++) {
            int64_t s = item / heads, n = item % heads;
            int text_keys = key_bounds[s + 1] - key_bounds[s], end = query_bounds[s + 1];
            Rows text_key = {key + key_bounds[s] * strides[2] + n * strides[3], strides[2]};
            Rows text_value = {value + key_bounds[s] * strides[4] + n * strides[5], strides[4]};
            for (int q = query_bounds[s]; q < end; q += 2 * LANES) {
                Rows block = {query + q * strides[0] + n * strides[1], strides[0]};
                float *place = output + q * output_stride + n * width;
                int count = std::min(2 * LANES, end - q);
                if (!text_keys)
                    for (int r = 0; r < count; r++) std::memset(place + r * output_stride, 0, width * sizeof(float));
                else if (count > LANES)
                    attend_block<2>(block, text_key, text_value, place, output_stride, count, text_keys, width, scale, scratch.data());
                else
                    attend_block<1>(block, text_key, text_value, place, output_stride, count, text_keys, width, scale, scratch.data());
            }
        }
    }
    return 0;
}
