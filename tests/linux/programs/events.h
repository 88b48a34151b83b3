/* Events of poll and epoll by their names; the two have the same bits. */
#ifndef EVENTS_H
#define EVENTS_H

#include <poll.h>
#include <sys/epoll.h>

#include "check.h"

__attribute__((unused)) static void print_events(const char *text, unsigned events) {
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {{POLLIN, "IN"},   {POLLPRI, "PRI"},   {POLLOUT, "OUT"},    {POLLERR, "ERR"},
                 {POLLHUP, "HUP"}, {POLLNVAL, "NVAL"}, {POLLRDHUP, "RDHUP"}};
    printf("%s:", text);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (events & names[i].bit)
            printf(" %s", names[i].name);
    printf("%s\n", events ? "" : " none");
}

/* The events of a descriptor, waited for up to ten seconds. */
__attribute__((unused)) static unsigned wait_for(int descriptor, unsigned events) {
    struct pollfd one = {.fd = descriptor, .events = (short)events};
    return poll(&one, 1, 10000) == 1 ? (unsigned)one.revents : 0;
}

#endif
