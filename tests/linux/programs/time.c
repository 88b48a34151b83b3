/* Clocks and sleeping. */
#include <sys/time.h>
#include <sys/times.h>
#include <time.h>

#include "check.h"

static const clockid_t clocks[] = {CLOCK_REALTIME,      CLOCK_MONOTONIC,          CLOCK_PROCESS_CPUTIME_ID,
                                   CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE,
                                   CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME};
enum { CLOCKS = sizeof clocks / sizeof clocks[0], LOOKS = 20000 };

static long nanoseconds(struct timespec time) {
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static long look(clockid_t clock) {
    struct timespec time;
    return clock_gettime(clock, &time) == 0 ? nanoseconds(time) : -1;
}

static void every_clock(void) {
    struct timespec time;
    for (size_t i = 0; i < CLOCKS; i++) {
        long last = 0, back = 0, wrong = 0;
        printf("clock %d\n", clocks[i]);
        CHECK(clock_gettime(clocks[i], &time));
        CHECK(clock_getres(clocks[i], &time));
        CHECK_THAT(nanoseconds(time) > 0 && nanoseconds(time) <= 1000000000);
        for (int j = 0; j < LOOKS; j++) {
            if (clock_gettime(clocks[i], &time) != 0 || time.tv_nsec < 0 || time.tv_nsec > 999999999)
                wrong++;
            back += nanoseconds(time) < last;
            last = nanoseconds(time);
        }
        CHECK(back);
        CHECK(wrong);
    }
    CHECK(clock_gettime(99, &time));
    CHECK(clock_getres(99, &time));
    CHECK(clock_getres(CLOCK_MONOTONIC, NULL));
}

/* The system calls themselves, which the C library goes around where it can. */
static void system_calls(void) {
    struct timespec time = {0};
    struct timeval of_day = {0};
    time_t seconds = 0;
    long last = 0, back = 0;
    CHECK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &time));
    CHECK_THAT(nanoseconds(time) > 0);
    for (int i = 0; i < LOOKS; i++) {
        syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &time);
        back += nanoseconds(time) < last;
        last = nanoseconds(time);
    }
    CHECK(back);
    CHECK(syscall(SYS_clock_gettime, 99, &time));
    CHECK(syscall(SYS_clock_getres, CLOCK_REALTIME, &time));
    CHECK(syscall(SYS_clock_getres, 99, &time));
    CHECK_THAT(syscall(SYS_time, &seconds) == seconds && seconds > 1700000000);
    CHECK(syscall(SYS_gettimeofday, &of_day, NULL));
    CHECK_THAT(of_day.tv_sec >= seconds && of_day.tv_usec >= 0 && of_day.tv_usec < 1000000);
    CHECK_THAT(syscall(SYS_time, NULL) >= seconds);
}

static void one_time(void) {
    struct timeval of_day;
    time_t before = time(NULL);
    CHECK(gettimeofday(&of_day, NULL));
    long now = look(CLOCK_REALTIME);
    CHECK_THAT(before > 1700000000);
    CHECK_THAT(of_day.tv_sec >= before && now / 1000 >= of_day.tv_sec * 1000000 + of_day.tv_usec);
    CHECK_THAT(now / 1000000000 - of_day.tv_sec < 100);
    CHECK_THAT(look(CLOCK_BOOTTIME) >= look(CLOCK_MONOTONIC) - 1000000000);
    time_t epoch = 86400 * 365;
    struct tm date;
    char text[40];
    CHECK_THAT(strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S %a", gmtime_r(&epoch, &date)) > 0);
    CHECK_TEXT(text);
}

static void time_that_passes(void) {
    /* A program that computes and does not look: time passes all the same. */
    volatile unsigned long sum = 0;
    long before = look(CLOCK_MONOTONIC), processor = look(CLOCK_PROCESS_CPUTIME_ID);
    for (unsigned long i = 0; i < 20000000; i++)
        sum += i;
    CHECK_THAT(look(CLOCK_MONOTONIC) - before >= 1000000);
    CHECK_THAT(look(CLOCK_PROCESS_CPUTIME_ID) > processor);
    /* One that does nothing but look sees it too. */
    before = look(CLOCK_MONOTONIC);
    while (look(CLOCK_MONOTONIC) - before < 5000000) {
    }
    time_t second = time(NULL);
    while (time(NULL) == second) {
    }
    CHECK_THAT(time(NULL) >= second + 1);
}

static void sleeping(void) {
    struct timespec short_time = {.tv_nsec = 20000000}, none = {0}, left = {.tv_sec = 77};
    struct timespec wrong = {.tv_nsec = 1000000000}, negative = {.tv_sec = -1};
    long before = look(CLOCK_MONOTONIC);
    CHECK(nanosleep(&short_time, &left));
    CHECK_THAT(look(CLOCK_MONOTONIC) - before >= 20000000);
    CHECK((long)left.tv_sec);
    CHECK(nanosleep(&none, NULL));
    CHECK(nanosleep(&wrong, NULL));
    CHECK(nanosleep(&negative, NULL));
    before = look(CLOCK_REALTIME);
    CHECK(usleep(5000));
    CHECK_THAT(look(CLOCK_REALTIME) - before >= 4000000);
    CHECK((long)sleep(0));
    CHECK(syscall(SYS_nanosleep, &short_time, NULL));
}

static void sleeping_until(clockid_t clock) {
    struct timespec then;
    clock_gettime(clock, &then);
    then.tv_nsec += 20000000;
    then.tv_sec += then.tv_nsec / 1000000000;
    then.tv_nsec %= 1000000000;
    CHECK_CODE(clock_nanosleep(clock, TIMER_ABSTIME, &then, NULL));
    CHECK_THAT(look(clock) >= nanoseconds(then));
    CHECK_CODE(clock_nanosleep(clock, TIMER_ABSTIME, &then, NULL));
}

static void sleeping_by_a_clock(void) {
    struct timespec short_time = {.tv_nsec = 20000000}, past = {.tv_sec = 1}, wrong = {.tv_nsec = -1};
    long before = look(CLOCK_MONOTONIC);
    CHECK_CODE(clock_nanosleep(CLOCK_MONOTONIC, 0, &short_time, NULL));
    CHECK_THAT(look(CLOCK_MONOTONIC) - before >= 20000000);
    sleeping_until(CLOCK_MONOTONIC);
    sleeping_until(CLOCK_REALTIME);
    CHECK_CODE(clock_nanosleep(CLOCK_BOOTTIME, 0, &short_time, NULL));
    CHECK_CODE(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &past, NULL));
    CHECK_CODE(clock_nanosleep(CLOCK_MONOTONIC, 0, &wrong, NULL));
    CHECK_CODE(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &short_time, NULL));
    CHECK_CODE(clock_nanosleep(99, 0, &short_time, NULL));
}

static void time_of_the_process(void) {
    struct tms before, after;
    clock_t start = times(&before);
    CHECK_THAT(start != (clock_t)-1);
    CHECK_THAT(times(&after) >= start);
    CHECK_THAT(after.tms_utime >= before.tms_utime && after.tms_stime >= before.tms_stime);
    CHECK((long)after.tms_cutime);
    CHECK_THAT(clock() >= 0);
    CHECK_THAT(sysconf(_SC_CLK_TCK) == 100);
}

int main(void) {
    RUN(every_clock);
    RUN(system_calls);
    RUN(one_time);
    RUN(time_that_passes);
    RUN(sleeping);
    RUN(sleeping_by_a_clock);
    RUN(time_of_the_process);
    return 0;
}
