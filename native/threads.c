/* One pool of threads, which spin for microseconds while they wait and then sleep.

   A step of a recurrent layer takes tens of microseconds and ends in a barrier: to sleep and be woken would take as long
   as the step. But a thread that spins while another program holds the processor of the one it waits for takes time from
   both. So all waiting is short and awake first, then asleep.

   The threads are started when they are first needed and stay. A task runs on as many of them as its caller asks for,
   and one task at a time: where two Python threads compute at once, the second works alone. */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <xmmintrin.h>

#include "kernels.h"

enum { MOST_THREADS = 256 };
enum { SPINS = 300, PAUSES = 30 }; /* a pause takes some 40 to 140 cycles: altogether 5 to 15 microseconds */
enum { TASK = 512 };               /* started counts tasks in steps of this; what is between is their threads */

/* A number that is never the same twice, which threads wait on. */
typedef struct {
    _Atomic unsigned value;
    _Atomic unsigned sleepers;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} Turn;

static Turn started = {0, 0, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};  /* tasks */
static Turn finished = {0, 0, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER}; /* barriers */
static pthread_mutex_t in_use = PTHREAD_MUTEX_INITIALIZER;
static int num_workers; /* threads of the pool that exist; the caller is not one of them */

static struct {
    Task task;
    void *argument;
    int num_threads;
    unsigned flags; /* of floating point, of the caller: whether denormals are zero */
    _Atomic int arrived;
} job;

static _Thread_local bool is_alone = true; /* in a task of one thread, which has nobody to wait for */

static void advance(Turn *turn, unsigned value)
{
    atomic_store(&turn->value, value);
    if (atomic_load(&turn->sleepers)) {
        pthread_mutex_lock(&turn->mutex);
        pthread_cond_broadcast(&turn->changed);
        pthread_mutex_unlock(&turn->mutex);
    }
}

static void wait_beyond(Turn *turn, unsigned seen)
{
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&turn->value, memory_order_acquire) != seen)
            return;
        if (spin % PAUSES == PAUSES - 1)
            sched_yield(); /* the thread that it waits for may be waiting for this processor */
        else
            _mm_pause();
    }
    pthread_mutex_lock(&turn->mutex);
    atomic_fetch_add(&turn->sleepers, 1); /* before the value is looked at: who changes it later sees the sleeper */
    while (atomic_load(&turn->value) == seen)
        pthread_cond_wait(&turn->changed, &turn->mutex);
    atomic_fetch_sub(&turn->sleepers, 1);
    pthread_mutex_unlock(&turn->mutex);
}

void wait_for_all(void)
{
    if (is_alone)
        return;
    unsigned seen = atomic_load(&finished.value);
    int num_threads = job.num_threads; /* before arriving: afterwards it may be that of the next task */
    if (atomic_fetch_add(&job.arrived, 1) + 1 == num_threads) {
        atomic_store(&job.arrived, 0);
        advance(&finished, seen + 1);
    } else {
        wait_beyond(&finished, seen);
    }
}

typedef struct {
    int thread;
    unsigned seen; /* of started, when the thread was made */
} Start;

static Start starts[MOST_THREADS];

static void *work(void *argument)
{
    const Start *start = argument;
    int thread = start->thread;
    unsigned seen = start->seen;
    is_alone = false;
    for (;;) {
        wait_beyond(&started, seen);
        seen = atomic_load(&started.value);
        /* A thread that the task does not want must not look at the job, which may be the next one's any time. */
        if ((unsigned)thread < seen % TASK) {
            _mm_setcsr(job.flags);
            job.task(thread, job.num_threads, job.argument);
            wait_for_all();
        }
    }
    return NULL;
}

/* In a child process only the thread that forked goes on. */
static void forget_workers(void)
{
    static const Turn fresh = {0, 0, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};
    static const pthread_mutex_t unlocked = PTHREAD_MUTEX_INITIALIZER;
    started = fresh;
    finished = fresh;
    in_use = unlocked;
    num_workers = 0;
    atomic_store(&job.arrived, 0);
}

static void prepare_for_forks(void)
{
    pthread_atfork(NULL, NULL, forget_workers);
}

/* Returns how many threads there are for a task, the caller included. */
static int start_workers(int num_threads)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, prepare_for_forks);
    while (num_workers < num_threads - 1) {
        pthread_t handle;
        starts[num_workers] = (Start){num_workers + 1, atomic_load(&started.value)};
        if (pthread_create(&handle, NULL, work, &starts[num_workers]))
            break;
        pthread_detach(handle);
        num_workers++;
    }
    return num_threads < num_workers + 1 ? num_threads : num_workers + 1;
}

void run_on_threads(int num_threads, Task task, void *argument)
{
    if (num_threads > MOST_THREADS)
        num_threads = MOST_THREADS;
    if (num_threads > 1 && pthread_mutex_trylock(&in_use) == 0) {
        num_threads = start_workers(num_threads);
        if (num_threads > 1) {
            job.task = task;
            job.argument = argument;
            job.num_threads = num_threads;
            job.flags = _mm_getcsr();
            is_alone = false;
            unsigned serial = atomic_load(&started.value) / TASK;
            advance(&started, (serial + 1) * TASK + (unsigned)num_threads);
            task(0, num_threads, argument);
            wait_for_all();
            is_alone = true;
            pthread_mutex_unlock(&in_use);
            return;
        }
        pthread_mutex_unlock(&in_use);
    }
    task(0, 1, argument); /* is_alone is true outside of a task */
}
