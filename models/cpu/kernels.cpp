// Attention over packed texts, and a layer of an LSTM over them, on a CPU in float32. `models/cpu/library.py` builds it,
// `attention.py` and `lstm.py` call it. Nothing is padded, and what a text gets depends on itself alone, to the bit.
//
// The vectors are those of GCC and Clang (https://gcc.gnu.org/onlinedocs/gcc/Vector-Extensions.html), as wide as the processor's.
// The compiler splits wider ones so badly that they take 30 times as long.
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
// The sum of values is held in registers for ROWS queries, and COLUMNS vectors of their width, at a time.
constexpr int ROWS = 4, COLUMNS = 2;
// With more keys the scores no longer stay in a core's nearest caches, and torch's attention is as fast or faster.
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

// Attention: a text is taken head by head, and its queries in blocks. The queries of a block lie side by side in one or two
// registers, so that the softmax over the keys needs no sum across a register.

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

// Turns scores into weights, in place, which still lack a factor: `shares` gets that of each query.
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
    // What follows the last text, which nothing reads.
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

// LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000), as torch.nn.LSTM defines it: gates i, f, g, o;
// c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c). LANES units of a few texts are computed at a time, their four
// gates in registers from the first product to the new state.

// Texts whose gates are held in registers at a time.
constexpr int TEXTS = LANES == 16 ? 6 : 3, GATES = 4;
constexpr float LOG2_E = 1.44269504f;

static inline Lanes sigmoid(Lanes x) {
    Lanes part = exp2((x < 0.0f ? x : -x) * LOG2_E);
    return (x < 0.0f ? part : Lanes{} + 1.0f) / (1.0f + part);
}

static inline Lanes tanh(Lanes x) {
    Lanes part = exp2((x < 0.0f ? x : -x) * (2 * LOG2_E)), size = (1.0f - part) / (1.0f + part);
    return x < 0.0f ? -size : size;
}

// Adds to the gates of LANES units what the outputs of the step before give them, for COUNT texts. Not inline: among other code
// the compiler keeps some of the sums in memory, which takes half as long again.
template <int COUNT>
__attribute__((noinline)) static void add_before(const float *const *before, const float *const *gates, const float *weights,
                                                 float *sums_of_texts, int64_t hidden) {
    Lanes sums[COUNT][GATES];
    for (int r = 0; r < COUNT; r++)
        for (int g = 0; g < GATES; g++) sums[r][g] = lanes(gates[r] + g * LANES);
    for (int64_t k = 0; k < hidden; k++) {
        Lanes weight[GATES];
        for (int g = 0; g < GATES; g++) weight[g] = lanes(weights + (k * GATES + g) * LANES);
        for (int r = 0; r < COUNT; r++)
            for (int g = 0; g < GATES; g++) sums[r][g] += before[r][k] * weight[g];
    }
    for (int r = 0; r < COUNT; r++)
        for (int g = 0; g < GATES; g++) lanes(sums_of_texts + (r * GATES + g) * LANES) = sums[r][g];
}

// LANES units of `count` texts: their cells and outputs.
template <int COUNT>
static inline void units(const float *const *before, const float *const *gates, const float *weights, float *const *cells,
                         float *const *outputs, int64_t hidden) {
    alignas(64) float sums[COUNT * GATES * LANES];
    add_before<COUNT>(before, gates, weights, sums, hidden);
    for (int r = 0; r < COUNT; r++) {
        const float *sum = sums + r * GATES * LANES;
        Lanes &cell = lanes(cells[r]);
        cell = sigmoid(lanes(sum + LANES)) * cell + sigmoid(lanes(sum)) * tanh(lanes(sum + 2 * LANES));
        lanes(outputs[r]) = sigmoid(lanes(sum + 3 * LANES)) * tanh(cell);
    }
}

template <int COUNT>
static inline void units_of(int count, const float *const *before, const float *const *gates, const float *weights,
                            float *const *cells, float *const *outputs, int64_t hidden) {
    if (count == COUNT)
        units<COUNT>(before, gates, weights, cells, outputs, hidden);
    else if constexpr (COUNT > 1)
        units_of<COUNT - 1>(count, before, gates, weights, cells, outputs, hidden);
}

struct Layer {
    const float *gates, *weights;
    float *output, *cells;
    const int64_t *batch_sizes, *starts;
    int64_t steps, hidden, directions;
};

// Every `stride`th text from `first` on, in one direction.
static void read_texts(const Layer &layer, int64_t direction, int64_t first, int64_t stride) {
    const int64_t hidden = layer.hidden, texts = layer.batch_sizes[0], width = layer.directions * hidden;
    const std::vector<float> zeros(hidden);
    const float *weights = layer.weights + direction * hidden * GATES * hidden;
    for (int64_t step = 0; step < layer.steps; step++) {
        const int64_t at = direction ? layer.steps - 1 - step : step, last = direction ? at + 1 : at - 1;
        const int64_t known = last < 0 || last >= layer.steps ? 0 : layer.batch_sizes[last];
        for (int64_t unit = 0; unit < hidden; unit += LANES)
            for (int64_t text = first; text < layer.batch_sizes[at]; text += TEXTS * stride) {
                const float *before[TEXTS], *gates[TEXTS];
                float *cells[TEXTS], *outputs[TEXTS];
                int count = 0;
                for (int64_t r = text; count < TEXTS && r < layer.batch_sizes[at]; r += stride, count++) {
                    const int64_t row = layer.starts[at] + r;
                    before[count] = r < known ? layer.output + (layer.starts[last] + r) * width + direction * hidden : zeros.data();
                    gates[count] = layer.gates + (row * layer.directions + direction) * GATES * hidden + GATES * unit;
                    cells[count] = layer.cells + (direction * texts + r) * hidden + unit;
                    outputs[count] = layer.output + row * width + direction * hidden + unit;
                }
                units_of<TEXTS>(count, before, gates, weights + GATES * hidden * unit, cells, outputs, hidden);
            }
    }
}

extern "C" int lane_count() { return LANES; }

// `batch_sizes`: how many texts have a first, second, ... token, the longest first. `gates` (tokens, directions, hidden / LANES,
// GATES, LANES): what the input and the biases add. `weights` (directions, hidden / LANES, hidden, GATES, LANES). `output` (tokens,
// directions, hidden). `cells` (directions, texts, hidden): zeros, and the last ones of each text afterwards. Returns 0; 1 where
// the batch sizes do not cut the tokens, or hidden is no multiple of LANES.
extern "C" int lstm(const float *gates, const float *weights, float *output, float *cells, const int64_t *batch_sizes,
                    int64_t steps, int64_t tokens, int64_t hidden, int64_t directions, int64_t threads) {
    std::vector<int64_t> starts(steps + 1);
    for (int64_t step = 0; step < steps; step++) {
        if (batch_sizes[step] < 1 || (step && batch_sizes[step] > batch_sizes[step - 1])) return 1;
        starts[step + 1] = starts[step] + batch_sizes[step];
    }
    if (!steps || starts[steps] != tokens || hidden % LANES) return 1;
    const Layer layer = {gates, weights, output, cells, batch_sizes, starts.data(), steps, hidden, directions};
    const int64_t shares = std::max<int64_t>(1, std::min((threads + directions - 1) / directions, batch_sizes[0] / TEXTS));
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
    for (int64_t item = 0; item < directions * shares; item++)
        read_texts(layer, item % directions, item / directions, shares);
    return 0;
}
