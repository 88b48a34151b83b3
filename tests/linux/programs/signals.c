/* Signals: sent to oneself, held back, waited for, and what a handler is told. */
#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <time.h>

#include "events.h"

static volatile sig_atomic_t seen, seen_number, seen_code, seen_value, seen_sender, depth, deepest;

static void forget(void) {
    seen = seen_number = seen_code = seen_value = seen_sender = depth = deepest = 0;
}

static void count(int number) {
    seen++;
    seen_number = number;
}

static void tell(int number, siginfo_t *information, void *context) {
    count(number);
    seen_code = information->si_code;
    seen_value = information->si_value.sival_int;
    seen_sender = information->si_pid == getpid() && information->si_uid == getuid();
    if (context == NULL || information->si_signo != number)
        seen = 1000;
}

static int handle(int number, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    return sigaction(number, &action, NULL);
}

static int handle_with_information(int number) {
    struct sigaction action = {.sa_sigaction = tell, .sa_flags = SA_SIGINFO};
    return sigaction(number, &action, NULL);
}

static sigset_t set_of(int number) {
    sigset_t set;
    sigemptyset(&set);
    if (number != 0)
        sigaddset(&set, number);
    return set;
}

static void actions(void) {
    struct sigaction old;
    forget();
    CHECK(handle(SIGUSR1, count, 0));
    CHECK(raise(SIGUSR1));
    CHECK(kill(getpid(), SIGUSR1));
    CHECK(seen);
    CHECK(sigaction(SIGUSR1, NULL, &old));
    CHECK_THAT(old.sa_handler == count && (old.sa_flags & SA_RESTART) == 0);
    CHECK(handle(SIGUSR1, SIG_IGN, 0));
    CHECK(raise(SIGUSR1));
    CHECK(handle(SIGUSR1, count, SA_RESETHAND));
    CHECK(raise(SIGUSR1));
    CHECK(sigaction(SIGUSR1, NULL, &old));
    CHECK_THAT(old.sa_handler == SIG_DFL);
    CHECK(seen);
    CHECK_THAT(signal(SIGUSR2, count) == SIG_DFL);
    CHECK(raise(SIGUSR2));
    CHECK_THAT(signal(SIGUSR2, SIG_IGN) == count);
    CHECK(raise(SIGUSR2));
    CHECK(seen);
    /* What by default does nothing. */
    CHECK(raise(SIGCHLD) + raise(SIGURG) + raise(SIGWINCH) + raise(SIGCONT));
    CHECK(handle(SIGKILL, count, 0));
    CHECK(handle(SIGSTOP, SIG_IGN, 0));
    CHECK(handle(0, count, 0));
    CHECK(handle(65, count, 0));
    CHECK(sigaction(SIGKILL, NULL, &old));
    CHECK(kill(getpid(), 65));
    CHECK(kill(getpid(), 0));
    CHECK(kill(999999999, 0));
    CHECK(kill(getpid(), -1));
    CHECK(syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 4));
}

static void information(void) {
    union sigval value = {.sival_int = 1234};
    forget();
    CHECK(handle_with_information(SIGUSR1));
    CHECK(kill(getpid(), SIGUSR1));
    CHECK_THAT(seen_code == SI_USER && seen_sender);
    CHECK(raise(SIGUSR1));
    CHECK_THAT(seen_code == SI_TKILL && seen_sender);
    CHECK(sigqueue(getpid(), SIGUSR1, value));
    CHECK_THAT(seen_code == SI_QUEUE && seen_sender);
    CHECK(seen_value);
    CHECK(seen);
    CHECK(sigqueue(999999999, SIGUSR1, value));
    value.sival_int = 77;
    CHECK_CODE(pthread_sigqueue(pthread_self(), SIGUSR1, value));
    CHECK_THAT(seen_code == SI_QUEUE && seen_sender);
    CHECK(seen_value);
}

static void masks(void) {
    sigset_t usr1 = set_of(SIGUSR1), none = set_of(0), old, pending;
    forget();
    CHECK(handle(SIGUSR1, count, 0));
    CHECK(sigprocmask(SIG_BLOCK, &usr1, &old));
    CHECK(sigismember(&old, SIGUSR1));
    CHECK(raise(SIGUSR1));
    CHECK(raise(SIGUSR1));
    CHECK(seen);
    CHECK(sigpending(&pending));
    CHECK(sigismember(&pending, SIGUSR1));
    CHECK(sigismember(&pending, SIGUSR2));
    CHECK(sigprocmask(SIG_UNBLOCK, &usr1, NULL));
    /* An ordinary signal that is pending twice comes once. */
    CHECK(seen);
    CHECK(sigpending(&pending));
    CHECK(sigismember(&pending, SIGUSR1));
    CHECK(sigprocmask(SIG_SETMASK, &usr1, NULL));
    CHECK(raise(SIGUSR1));
    CHECK(sigsuspend(&none));
    CHECK(seen);
    CHECK(sigprocmask(SIG_SETMASK, NULL, &old));
    CHECK(sigismember(&old, SIGUSR1));
    /* Ignored while it is held back: it is gone. */
    CHECK(raise(SIGUSR1));
    CHECK(handle(SIGUSR1, SIG_IGN, 0));
    CHECK(handle(SIGUSR1, count, 0));
    CHECK(sigprocmask(SIG_SETMASK, &none, NULL));
    CHECK(seen);
    CHECK(sigprocmask(99, &usr1, NULL));
    CHECK(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &usr1, NULL, 4));
    sigset_t killing = set_of(SIGKILL);
    CHECK(sigprocmask(SIG_BLOCK, &killing, NULL));
    CHECK(sigprocmask(SIG_BLOCK, NULL, &old));
    CHECK(sigismember(&old, SIGKILL));
}

static void order(int number) {
    seen = seen * 100 + number - SIGRTMIN;
}

static void real_time_signals(void) {
    sigset_t set, none = set_of(0);
    forget();
    sigemptyset(&set);
    for (int i = 1; i <= 3; i++)
        sigaddset(&set, SIGRTMIN + i);
    struct sigaction action = {.sa_handler = order, .sa_mask = set};
    for (int i = 1; i <= 3; i++)
        CHECK(sigaction(SIGRTMIN + i, &action, NULL));
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL));
    CHECK(raise(SIGRTMIN + 2) + raise(SIGRTMIN + 1) + raise(SIGRTMIN + 2));
    CHECK(sigprocmask(SIG_SETMASK, &none, NULL));
    CHECK(seen);
}

static void nest(int number) {
    seen++;
    if (++depth > deepest)
        deepest = depth;
    if (seen < 3)
        raise(number);
    depth--;
}

static void nesting(void) {
    forget();
    CHECK(handle(SIGUSR1, nest, 0));
    CHECK(raise(SIGUSR1));
    CHECK(seen);
    CHECK(deepest);
    forget();
    CHECK(handle(SIGUSR1, nest, SA_NODEFER));
    CHECK(raise(SIGUSR1));
    CHECK(seen);
    CHECK(deepest);
}

static stack_t alternate;
static int on_alternate;

static void look_at_stack(int number) {
    char here;
    count(number);
    on_alternate = &here >= (char *)alternate.ss_sp && &here < (char *)alternate.ss_sp + alternate.ss_size;
    stack_t current;
    sigaltstack(NULL, &current);
    seen_code = current.ss_flags;
    errno = 0;
    seen_value = sigaltstack(&alternate, NULL) == -1 && errno == EPERM;
}

static void stacks(void) {
    static char room[1 << 16];
    stack_t old, none = {.ss_flags = SS_DISABLE}, small = {.ss_sp = room, .ss_size = 100};
    stack_t wrong = {.ss_sp = room, .ss_size = sizeof room, .ss_flags = 99};
    forget();
    CHECK(sigaltstack(NULL, &old));
    CHECK_THAT((old.ss_flags & SS_DISABLE) != 0);
    alternate = (stack_t){.ss_sp = room, .ss_size = sizeof room};
    CHECK(sigaltstack(&alternate, NULL));
    CHECK(handle(SIGUSR1, look_at_stack, SA_ONSTACK));
    CHECK(raise(SIGUSR1));
    CHECK(on_alternate);
    CHECK_THAT(seen_code == SS_ONSTACK);
    CHECK(seen_value);
    CHECK(handle(SIGUSR1, look_at_stack, 0));
    CHECK(raise(SIGUSR1));
    CHECK(on_alternate);
    CHECK(sigaltstack(&small, NULL));
    CHECK(sigaltstack(&wrong, NULL));
    CHECK(sigaltstack(&none, NULL));
}

static void taken_without_a_handler(void) {
    sigset_t set = set_of(SIGUSR1), none = set_of(0);
    siginfo_t information;
    struct timespec short_time = {.tv_nsec = 10000000}, wrong = {.tv_nsec = -1};
    int number = 0;
    union sigval value = {.sival_int = 99};
    sigaddset(&set, SIGUSR2);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL));
    CHECK(handle(SIGUSR2, count, 0));
    CHECK(raise(SIGUSR2));
    CHECK_CODE(sigwait(&set, &number));
    CHECK_THAT(number == SIGUSR2);
    CHECK(sigqueue(getpid(), SIGUSR1, value));
    CHECK_THAT(sigwaitinfo(&set, &information) == SIGUSR1);
    CHECK_THAT(information.si_code == SI_QUEUE && information.si_pid == getpid());
    CHECK(information.si_value.sival_int);
    CHECK(sigtimedwait(&set, &information, &short_time));
    CHECK(sigtimedwait(&set, &information, &wrong));
    short_time.tv_nsec = 0;
    CHECK(sigtimedwait(&set, NULL, &short_time));
    CHECK(raise(SIGUSR1));
    CHECK_THAT(sigtimedwait(&set, NULL, &short_time) == SIGUSR1);
    CHECK(sigprocmask(SIG_SETMASK, &none, NULL));
}

static void by_descriptor(void) {
    sigset_t set = set_of(SIGUSR1), none = set_of(0), other = set_of(SIGUSR2);
    struct signalfd_siginfo information[3];
    memset(information, 0, sizeof information);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL));
    int file = CHECK(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
    CHECK(read(file, information, sizeof information));
    CHECK(kill(getpid(), SIGUSR1));
    print_events("signal", wait_for(file, POLLIN));
    CHECK_THAT(read(file, information, sizeof information) == sizeof information[0]);
    CHECK_THAT(information[0].ssi_signo == SIGUSR1 && (pid_t)information[0].ssi_pid == getpid());
    CHECK(read(file, information, sizeof information));
    CHECK(read(file, information, 10));
    CHECK_THAT(signalfd(file, &other, 0) == file);
    CHECK(raise(SIGUSR1));
    CHECK(read(file, information, sizeof information));
    CHECK_THAT(signalfd(file, &set, 0) == file);
    CHECK_THAT(read(file, information, sizeof information) == sizeof information[0]);
    CHECK(signalfd(1, &set, 0));
    CHECK(signalfd(-1, &set, 99));
    CHECK(close(file));
    CHECK(sigprocmask(SIG_SETMASK, &none, NULL));
}

static pthread_t main_thread;
static pthread_barrier_t barrier;
static int in_thread;

static void note_thread(int number) {
    count(number);
    in_thread = !pthread_equal(pthread_self(), main_thread);
}

static void *receive(void *unused) {
    sigset_t none = set_of(0);
    pthread_barrier_wait(&barrier);
    while (!seen)
        sigsuspend(&none);
    return unused;
}

static void *wait_for_any(void *unused) {
    sigset_t set = set_of(SIGUSR2);
    int number = 0;
    (void)unused;
    return (void *)(long)(sigwait(&set, &number) == 0 ? number : -1);
}

static void to_threads(void) {
    pthread_t thread;
    sigset_t set = set_of(SIGUSR1), none = set_of(0);
    void *result = NULL;
    forget();
    sigaddset(&set, SIGUSR2);
    main_thread = pthread_self();
    CHECK_CODE(pthread_barrier_init(&barrier, NULL, 2));
    CHECK(handle(SIGUSR1, note_thread, 0));
    CHECK_CODE(pthread_sigmask(SIG_BLOCK, &set, NULL));
    CHECK_CODE(pthread_create(&thread, NULL, receive, NULL));
    pthread_barrier_wait(&barrier);
    CHECK_CODE(pthread_kill(thread, SIGUSR1));
    CHECK_CODE(pthread_join(thread, NULL));
    CHECK(seen);
    CHECK(in_thread);
    CHECK_CODE(pthread_create(&thread, NULL, wait_for_any, NULL));
    CHECK(kill(getpid(), SIGUSR2));
    CHECK_CODE(pthread_join(thread, &result));
    CHECK_THAT((long)result == SIGUSR2);
    CHECK_CODE(pthread_kill(pthread_self(), 65));
    CHECK_CODE(pthread_sigqueue(pthread_self(), 65, (union sigval){.sival_int = 5}));
    CHECK(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1));
    CHECK_CODE(pthread_sigmask(SIG_SETMASK, &none, NULL));
    CHECK(seen);
    CHECK(in_thread);
    CHECK(syscall(SYS_tgkill, getpid(), 999999999, SIGUSR1));
    CHECK(syscall(SYS_tgkill, -1, gettid(), SIGUSR1));
    CHECK(syscall(SYS_tkill, gettid(), SIGUSR1));
    CHECK(seen);
}

static void registers_are_kept(void) {
    /* What a handler computes with is not what the program computes with. */
    double sum = 0;
    forget();
    CHECK(handle(SIGUSR1, count, 0));
    for (int i = 1; i <= 1000; i++) {
        sum += 1.0 / i;
        if (i % 100 == 0)
            raise(SIGUSR1);
    }
    CHECK(seen);
    printf("sum: %.12f\n", sum);
}

int main(void) {
    RUN(actions);
    RUN(information);
    RUN(masks);
    RUN(real_time_signals);
    RUN(nesting);
    RUN(stacks);
    RUN(taken_without_a_handler);
    RUN(by_descriptor);
    RUN(to_threads);
    RUN(registers_are_kept);
    return 0;
}
