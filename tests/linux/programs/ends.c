/* How a program ends: its argument says in which way. */
#include <pthread.h>
#include <signal.h>

#include "check.h"

static void say(void) {
    printf("at exit\n");
}

static void *end_the_process(void *unused) {
    (void)unused;
    printf("from a thread\n");
    exit(6);
}

static void *outlive(void *first) {
    pthread_join(*(pthread_t *)first, NULL);
    printf("the last thread\n");
    return NULL;
}

static void *wait_for_ever(void *unused) {
    for (;;)
        pause();
    return unused;
}

static void *raise_in_thread(void *unused) {
    raise(SIGTERM);
    return unused;
}

static void end(const char *way) {
    pthread_t thread;
    static pthread_t first;
    int ends[2];
    if (strcmp(way, "exit") == 0)
        exit(4);
    if (strcmp(way, "_exit") == 0)
        _exit(5);
    if (strcmp(way, "large-status") == 0)
        exit(256 + 7);
    if (strcmp(way, "thread") == 0) {
        pthread_create(&thread, NULL, end_the_process, NULL);
        wait_for_ever(NULL);
    }
    if (strcmp(way, "with-threads") == 0) {
        for (int i = 0; i < 10; i++)
            pthread_create(&thread, NULL, wait_for_ever, NULL);
        exit(8);
    }
    if (strcmp(way, "first-thread-first") == 0) {
        first = pthread_self();
        pthread_create(&thread, NULL, outlive, &first);
        pthread_exit(NULL);
    }
    if (strcmp(way, "abort") == 0)
        abort();
    if (strcmp(way, "terminated") == 0)
        raise(SIGTERM);
    if (strcmp(way, "killed") == 0)
        kill(getpid(), SIGKILL);
    if (strcmp(way, "user-signal") == 0)
        kill(getpid(), SIGUSR1);
    if (strcmp(way, "signal-in-thread") == 0) {
        pthread_create(&thread, NULL, raise_in_thread, NULL);
        wait_for_ever(NULL);
    }
    if (strcmp(way, "alarm") == 0) {
        alarm(1);
        pause();
    }
    if (strcmp(way, "pipe") == 0) {
        require(pipe(ends) == 0, "pipe");
        close(ends[0]);
        CHECK(write(ends[1], "x", 1));
    }
    if (strcmp(way, "blocked-abort") == 0) {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, NULL);
        abort();
    }
}

int main(int count, char **arguments) {
    require(count == 2, "one argument");
    atexit(say);
    fprintf(stderr, "%s\n", arguments[1]);
    end(arguments[1]);
    printf("from main\n");
    return 3;
}
