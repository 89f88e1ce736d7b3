/* A stand-in for libnvidia-ml.so.1: NVML's C interface over simulated boards, for tests of the real binding.
 *
 * The boards are described by the text file that $FAKE_NVML_STATE names, read anew at every call, so that a test may
 * change them while a program runs: lines of "key value"; "board" begins a board. Times are CLOCK_MONOTONIC seconds.
 *
 * The truth of a board is its power: idle_w, and load_w in the first `duty` of every wave_s between load_from_s and
 * load_until_s. Its sensor wakes every update_s and sees the mean of the last window_s; the counter adds what it saw
 * for the whole period, or all the energy where counter_window_s is 0.
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };
enum { FIELD_POWER_AVERAGE = 185, FIELD_POWER_INSTANT = 186, FIELD_LINK_TX = 138, FIELD_LINK_RX = 139 };
enum { SCOPE_GPU, SCOPE_MODULE, SCOPE_MEMORY };
enum { MOST_BOARDS = 16, MOST_PARTS = 8 };

typedef struct {
    char uuid[96];
    int gpu_instance, compute_instance, slices, board;
} Instance;

typedef struct {
    char name[96], uuid[96];
    double architecture, counter, instant, usage, average_s, power_field;
    double idle_w, load_w, load_from_s, load_until_s, wave_s, duty;
    double epoch_s, update_s, window_s, counter_window_s, gain, noise_w, start_j, disturbed_s, disturbed_share;
    double memory_share, module_w, ignores_scope;
    double limit_w, clock_mhz, max_clock_mhz, memory_clock_mhz, temperature_c, utilisation, memory_utilisation, reasons;
    double pcie_tx_kb, pcie_rx_kb, link_tx_kib, link_rx_kib;
    double lost_from_s, lost_until_s, restarts, hang_from_s, hang_until_s, mig;
    int processes, pids[MOST_PARTS], shares[MOST_PARTS], instances;
    Instance instance[MOST_PARTS];
} Board;

static Board boards[MOST_BOARDS];
static int count, init_error;
static char driver[80];
static double last_poll_s[MOST_BOARDS], missed_j[MOST_BOARDS]; /* what polling does to the counters */
static int started;
static double started_s;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

#define NUMBER(field) \
    if (!strcmp(key, #field)) b->field = atof(value)

static void set(Board *b, const char *key, const char *value) {
    if (!strcmp(key, "name")) snprintf(b->name, sizeof b->name, "%s", value);
    if (!strcmp(key, "uuid")) snprintf(b->uuid, sizeof b->uuid, "%s", value);
    NUMBER(architecture); NUMBER(counter); NUMBER(instant); NUMBER(usage); NUMBER(average_s); NUMBER(power_field);
    NUMBER(idle_w); NUMBER(load_w); NUMBER(load_from_s); NUMBER(load_until_s); NUMBER(wave_s); NUMBER(duty);
    NUMBER(epoch_s); NUMBER(update_s); NUMBER(window_s); NUMBER(counter_window_s); NUMBER(gain); NUMBER(noise_w);
    NUMBER(start_j); NUMBER(disturbed_s); NUMBER(disturbed_share);
    NUMBER(memory_share); NUMBER(module_w); NUMBER(ignores_scope);
    NUMBER(limit_w); NUMBER(clock_mhz); NUMBER(max_clock_mhz); NUMBER(memory_clock_mhz); NUMBER(temperature_c);
    NUMBER(utilisation); NUMBER(memory_utilisation); NUMBER(reasons);
    NUMBER(pcie_tx_kb); NUMBER(pcie_rx_kb); NUMBER(link_tx_kib); NUMBER(link_rx_kib);
    NUMBER(lost_from_s); NUMBER(lost_until_s); NUMBER(restarts); NUMBER(hang_from_s); NUMBER(hang_until_s); NUMBER(mig);
    if (!strcmp(key, "process") && b->processes < MOST_PARTS) {
        sscanf(value, "%d %d", &b->pids[b->processes], &b->shares[b->processes]);
        b->processes++;
    }
    if (!strcmp(key, "instance") && b->instances < MOST_PARTS) {
        Instance *part = &b->instance[b->instances++];
        part->board = (int)(b - boards);
        sscanf(value, "%95s %d %d %d", part->uuid, &part->gpu_instance, &part->compute_instance, &part->slices);
    }
}

static void load(void) {
    char line[256];
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return;
    count = init_error = 0;
    memset(boards, 0, sizeof boards);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *value = strchr(line, ' ');
        if (value) *value++ = 0;
        if (!strcmp(line, "board") && count < MOST_BOARDS) count++;
        else if (value && !strcmp(line, "driver")) snprintf(driver, sizeof driver, "%s", value);
        else if (value && !strcmp(line, "init_error")) init_error = atoi(value);
        else if (value && count) set(&boards[count - 1], line, value);
    }
    fclose(file);
}

static double least(double a, double b) { return a < b ? a : b; }

/* Seconds under load until t. */
static double busy_s(const Board *b, double t) {
    double into = least(t, b->load_until_s) - b->load_from_s;
    if (into <= 0) return 0;
    if (b->wave_s <= 0) return into;
    double whole = floor(into / b->wave_s);
    return whole * b->wave_s * b->duty + least(into - whole * b->wave_s, b->wave_s * b->duty);
}

static double true_j(const Board *b, double t) {
    return b->idle_w * (t - b->epoch_s) + (b->load_w - b->idle_w) * busy_s(b, t);
}

static double mean_w(const Board *b, double t, double window_s) {
    return b->gain * (true_j(b, t) - true_j(b, t - window_s)) / window_s;
}

static double update_before(const Board *b, double t) {
    return b->epoch_s + floor((t - b->epoch_s) / b->update_s) * b->update_s;
}

static double counted_j(const Board *b, double t) {
    double until = update_before(b, t), sum = 0;
    if (b->counter_window_s <= 0) return b->gain * true_j(b, until);
    for (double u = b->epoch_s + b->update_s; u < until + 0.5 * b->update_s; u += b->update_s)
        sum += b->update_s * mean_w(b, u, b->counter_window_s);
    return sum;
}

/* What the sensor says at t: the mean of its last update, and noise that is the same for all who ask. */
static double power_w(const Board *b, double t, double window_s) {
    double until = update_before(b, t);
    unsigned hash = (unsigned)(0.5 + (until - b->epoch_s) / b->update_s) * 2654435761u;
    return mean_w(b, until, window_s) + b->noise_w * ((hash >> 16) / 32768.0 - 1.0);
}

/* ---- handles ---- */

/* An instance lies inside its board's record, a board at its beginning. */
static int is_instance(void *device) { return ((char *)device - (char *)boards) % sizeof(Board) != 0; }
static Board *board_of(void *device) { return is_instance(device) ? &boards[((Instance *)device)->board] : device; }

static int lost(const Board *b) {
    double t = now();
    /* A driver that has lost a board gives it back only to those who start NVML anew. */
    return b->lost_until_s > b->lost_from_s && t >= b->lost_from_s && (t < b->lost_until_s || started_s < b->lost_until_s);
}

/* Every call begins here: the boards as they are now, hung or lost. */
static int enter(void *device) {
    pthread_mutex_lock(&lock);
    load();
    if (!started) return UNINITIALIZED;
    if (!device) return SUCCESS;
    Board *b = board_of(device);
    double t = now();
    if (t >= b->hang_from_s && t < b->hang_until_s) {
        struct timespec pause = {(time_t)(b->hang_until_s - t), (long)(1e9 * fmod(b->hang_until_s - t, 1.0))};
        nanosleep(&pause, NULL);
    }
    return lost(b) ? GPU_IS_LOST : SUCCESS;
}

static int leave(int result) {
    pthread_mutex_unlock(&lock);
    return result;
}

#define ENTER(device)                    \
    int result = enter(device);          \
    if (result) return leave(result);    \
    Board *b = device ? board_of(device) : NULL; \
    (void)b
#define SUPPORTED(condition) \
    if (!(condition)) return leave(NOT_SUPPORTED)

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    load();
    if (!init_error) {
        started++;
        started_s = now();
    }
    return leave(init_error);
}

int nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    if (!started) return leave(UNINITIALIZED);
    started--;
    return leave(SUCCESS);
}

const char *nvmlErrorString(int result) {
    switch (result) {
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case GPU_IS_LOST: return "GPU is lost";
    case UNINITIALIZED: return "Uninitialized";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    ENTER(NULL);
    snprintf(version, length, "%s", driver);
    return leave(SUCCESS);
}

int nvmlDeviceGetCount_v2(unsigned *boards_there) {
    ENTER(NULL);
    *boards_there = count;
    return leave(SUCCESS);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    ENTER(NULL);
    if (index >= (unsigned)count) return leave(INVALID_ARGUMENT);
    if (lost(&boards[index])) return leave(GPU_IS_LOST);
    *device = &boards[index];
    return leave(SUCCESS);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    ENTER(NULL);
    for (int i = 0; i < count; i++) {
        if (!strcmp(boards[i].uuid, uuid)) {
            *device = &boards[i];
            return leave(lost(&boards[i]) ? GPU_IS_LOST : SUCCESS);
        }
        for (int j = 0; j < boards[i].instances; j++)
            if (!strcmp(boards[i].instance[j].uuid, uuid)) {
                *device = &boards[i].instance[j];
                return leave(SUCCESS);
            }
    }
    return leave(NOT_FOUND);
}

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    ENTER(device);
    snprintf(name, length, "%s", b->name);
    return leave(SUCCESS);
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    ENTER(device);
    snprintf(uuid, length, "%s", is_instance(device) ? ((Instance *)device)->uuid : b->uuid);
    return leave(SUCCESS);
}

int nvmlDeviceGetArchitecture(void *device, unsigned *architecture) {
    ENTER(device);
    *architecture = (unsigned)b->architecture;
    return leave(SUCCESS);
}

/* ---- energy and power ---- */

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy_mj) {
    ENTER(device);
    SUPPORTED(b->counter);
    double t = now();
    int i = (int)(b - boards);
    if (b->disturbed_s > 0 && t - last_poll_s[i] < b->disturbed_s)
        missed_j[i] += b->disturbed_share * (counted_j(b, t) - counted_j(b, last_poll_s[i]));
    last_poll_s[i] = t;
    double counted = counted_j(b, t) - missed_j[i];
    if (b->restarts && t >= b->lost_until_s) counted -= counted_j(b, b->lost_until_s);
    else counted += b->start_j;
    *energy_mj = (unsigned long long)(1e3 * counted);
    return leave(SUCCESS);
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *power_mw) {
    ENTER(device);
    SUPPORTED(b->usage);
    *power_mw = (unsigned)(1e3 * power_w(b, now(), b->average_s > 0 ? b->average_s : b->window_s));
    return leave(SUCCESS);
}

typedef struct {
    unsigned field, scope;
    long long timestamp_us, latency_us;
    int type, result;
    union { double d; unsigned u; unsigned long ul; unsigned long long ull; } value;
} FieldValue;

static int read_field(const Board *b, FieldValue *v) {
    double t = now();
    if (v->field == FIELD_LINK_TX || v->field == FIELD_LINK_RX) {
        double rate_kib = v->field == FIELD_LINK_TX ? b->link_tx_kib : b->link_rx_kib;
        if (rate_kib <= 0 || v->scope != 0xFFFFFFFFu) return NOT_SUPPORTED;
        v->type = 3; /* unsigned long long */
        v->value.ull = (unsigned long long)(rate_kib * (t - b->epoch_s));
        return SUCCESS;
    }
    int average = v->field == FIELD_POWER_AVERAGE;
    if (!(average || v->field == FIELD_POWER_INSTANT) || !b->power_field) return NOT_SUPPORTED;
    unsigned scope = b->ignores_scope ? SCOPE_GPU : v->scope;
    if (scope == SCOPE_MODULE && b->module_w <= 0) return NOT_SUPPORTED;
    if (scope == SCOPE_MEMORY && (b->memory_share <= 0 || !average)) return NOT_SUPPORTED; /* as on an H100 */
    if (scope == SCOPE_GPU && !(average ? b->average_s > 0 : b->instant)) return NOT_SUPPORTED;
    double draws_w = power_w(b, t, average ? b->average_s : b->window_s);
    if (scope == SCOPE_MODULE) draws_w += b->module_w;
    if (scope == SCOPE_MEMORY) draws_w *= b->memory_share;
    v->type = 1; /* unsigned int */
    v->value.u = (unsigned)(1e3 * draws_w);
    return SUCCESS;
}

int nvmlDeviceGetFieldValues(void *device, int fields, FieldValue *values) {
    ENTER(device);
    for (int i = 0; i < fields; i++) values[i].result = read_field(b, &values[i]);
    return leave(SUCCESS);
}

/* ---- state ---- */

static int whole(double value, unsigned *out) {
    if (value < 0) return leave(NOT_SUPPORTED);
    *out = (unsigned)value;
    return leave(SUCCESS);
}

int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *limit_mw) {
    ENTER(device);
    return whole(1e3 * b->limit_w, limit_mw);
}

int nvmlDeviceGetPowerManagementDefaultLimit(void *device, unsigned *limit_mw) {
    ENTER(device);
    return whole(1e3 * b->limit_w, limit_mw);
}

int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *mhz) {
    ENTER(device);
    return whole(kind == 2 ? b->memory_clock_mhz : b->clock_mhz, mhz);
}

int nvmlDeviceGetMaxClockInfo(void *device, int kind, unsigned *mhz) {
    ENTER(device);
    return whole(kind == 2 ? b->memory_clock_mhz : b->max_clock_mhz, mhz);
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *temperature_c) {
    (void)sensor;
    ENTER(device);
    return whole(b->temperature_c, temperature_c);
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned rates[2]) {
    ENTER(device);
    SUPPORTED(b->utilisation >= 0);
    rates[0] = (unsigned)b->utilisation;
    rates[1] = (unsigned)b->memory_utilisation;
    return leave(SUCCESS);
}

int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *reasons) {
    ENTER(device);
    SUPPORTED(b->reasons >= 0);
    *reasons = (unsigned long long)b->reasons;
    return leave(SUCCESS);
}

int nvmlDeviceGetPcieThroughput(void *device, int direction, unsigned *kb_per_s) {
    ENTER(device);
    struct timespec pause = {0, 20000000};
    nanosleep(&pause, NULL);
    return whole(direction ? b->pcie_rx_kb : b->pcie_tx_kb, kb_per_s);
}

typedef struct {
    unsigned pid;
    unsigned long long time_us;
    unsigned sm, memory, encoder, decoder;
} ProcessSample;

int nvmlDeviceGetProcessUtilization(void *device, ProcessSample *samples, unsigned *size, unsigned long long seen_us) {
    ENTER(device);
    (void)seen_us;
    if (!b->processes) return leave(NOT_FOUND);
    if (!samples || *size < (unsigned)b->processes) {
        *size = b->processes;
        return leave(INSUFFICIENT_SIZE);
    }
    *size = b->processes;
    for (int i = 0; i < b->processes; i++)
        samples[i] = (ProcessSample){b->pids[i], (unsigned long long)(1e6 * now()), b->shares[i], 0, 0, 0};
    return leave(SUCCESS);
}

/* ---- MIG ---- */

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    ENTER(device);
    SUPPORTED(b->mig >= 0);
    *current = *pending = (unsigned)b->mig;
    return leave(SUCCESS);
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *most) {
    ENTER(device);
    *most = b->mig > 0 ? 7 : 0;
    return leave(SUCCESS);
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **instance) {
    ENTER(device);
    if (index >= (unsigned)b->instances) return leave(NOT_FOUND);
    *instance = &b->instance[index];
    return leave(SUCCESS);
}

int nvmlDeviceGetGpuInstanceId(void *device, unsigned *id) {
    ENTER(device);
    if (!is_instance(device)) return leave(NOT_FOUND);
    *id = ((Instance *)device)->gpu_instance;
    return leave(SUCCESS);
}

int nvmlDeviceGetComputeInstanceId(void *device, unsigned *id) {
    ENTER(device);
    if (!is_instance(device)) return leave(NOT_FOUND);
    *id = ((Instance *)device)->compute_instance;
    return leave(SUCCESS);
}

typedef struct {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpeg, ofa, gpu_slices, compute_slices;
    unsigned long long memory_mb;
} Attributes;

int nvmlDeviceGetAttributes_v2(void *device, Attributes *attributes) {
    ENTER(device);
    if (!is_instance(device)) return leave(NOT_FOUND);
    memset(attributes, 0, sizeof *attributes);
    attributes->gpu_slices = attributes->compute_slices = ((Instance *)device)->slices;
    return leave(SUCCESS);
}
