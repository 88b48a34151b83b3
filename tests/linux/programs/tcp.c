/* TCP within the machine: connections over the loopback interface and over the machine's own address. */
#include <pthread.h>
#include <signal.h>
#include <sys/uio.h>

#include "network.h"

static char buffer[1 << 16];

static void connection(const char *host) {
    int listener = CHECK(socket(AF_INET, SOCK_STREAM, 0)), one = 1;
    Internet address = internet(host, 0), peer;
    socklen_t length = sizeof peer;
    CHECK(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    CHECK(bind(listener, (Address *)&address, sizeof address));
    CHECK(listen(listener, 10));
    address = name_of(listener);
    CHECK_THAT(address.sin_port != 0 && address.sin_addr.s_addr == internet(host, 0).sin_addr.s_addr);
    int client = CHECK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
    CHECK(connect(client, (Address *)&address, sizeof address));
    int server = CHECK(accept4(listener, (Address *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC));
    CHECK(length);
    CHECK_THAT(same_address(peer, name_of(client)) && same_address(peer, peer_of(server)));
    CHECK_THAT(same_address(peer_of(client), address) && same_address(name_of(server), address));
    CHECK_THAT(peer.sin_addr.s_addr == address.sin_addr.s_addr);
    CHECK(fcntl(server, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(server, F_GETFD));
    CHECK(recv(server, buffer, 10, 0));
    CHECK(send(client, "request", 7, 0));
    print_events("request", wait_for(server, POLLIN));
    CHECK(recv(server, buffer, 100, 0));
    CHECK(write(server, "answer", 6));
    CHECK(read(client, buffer, 100));
    CHECK(shutdown(client, SHUT_WR));
    print_events("half closed", wait_for(server, POLLIN | POLLRDHUP));
    CHECK(recv(server, buffer, 100, 0));
    CHECK(send(client, "x", 1, 0));
    CHECK(send(server, "more", 4, 0));
    CHECK(recv(client, buffer, 100, 0));
    CHECK(shutdown(server, SHUT_WR));
    CHECK(recv(client, buffer, 100, 0));
    print_events("closed", wait_for(client, POLLIN));
    CHECK(close(client) + close(server) + close(listener));
}

static void over_loopback(void) {
    connection("127.0.0.1");
}

static void over_the_own_address(void) {
    connection(own_address());
}

static void over_any_address(void) {
    int listener = listening("0.0.0.0"), client = CHECK(connected(listener)), other = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_THAT(name_of(listener).sin_addr.s_addr == 0);
    Internet address = internet(own_address(), ntohs(name_of(listener).sin_port));
    CHECK(connect(other, (Address *)&address, sizeof address));
    int first = accept(listener, NULL, NULL), second = accept(listener, NULL, NULL);
    CHECK_THAT(same_address(peer_of(first), name_of(client)) && same_address(peer_of(second), name_of(other)));
    CHECK_THAT(same_address(name_of(second), address));
    CHECK(close(first) + close(second) + close(client) + close(other) + close(listener));
}

static void many_at_once(void) {
    enum { CLIENTS = 32 };
    int listener = listening("127.0.0.1"), clients[CLIENTS], accepted = 0, right = 0;
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = connected(listener);
    for (int i = 0; i < CLIENTS; i++) {
        int server = accept(listener, NULL, NULL);
        accepted += server >= 0;
        write(server, &i, sizeof i);
        close(server);
    }
    for (int i = 0; i < CLIENTS; i++) {
        int number = -1;
        right += recv(clients[i], &number, sizeof number, MSG_WAITALL) == sizeof number && number == i;
        close(clients[i]);
    }
    CHECK(accepted);
    CHECK(right);
    CHECK(close(listener));
}

static void *send_much(void *socket) {
    static char block[10000];
    for (int i = 0; i < 400; i++) {
        memset(block, i, sizeof block);
        for (size_t sent = 0; sent < sizeof block;) {
            ssize_t length = send((int)(long)socket, block + sent, sizeof block - sent, 0);
            if (length < 0)
                return NULL;
            sent += (size_t)length;
        }
    }
    shutdown((int)(long)socket, SHUT_WR);
    return NULL;
}

static void much_data(void) {
    pthread_t thread;
    int pair[2];
    long total = 0, wrong = 0;
    connect_pair(pair);
    CHECK_CODE(pthread_create(&thread, NULL, send_much, (void *)(long)pair[0]));
    for (ssize_t length; (length = recv(pair[1], buffer, sizeof buffer, 0)) > 0; total += length)
        for (ssize_t i = 0; i < length; i++)
            wrong += buffer[i] != (char)((total + i) / 10000);
    CHECK(total);
    CHECK(wrong);
    CHECK_CODE(pthread_join(thread, NULL));
    CHECK(close(pair[0]) + close(pair[1]));
}

static void peeking(void) {
    int pair[2];
    struct iovec parts[2] = {{"01234", 5}, {"56789", 5}}, places[2] = {{buffer, 3}, {buffer + 100, 50}};
    connect_pair(pair);
    CHECK(recv(pair[1], buffer, 10, MSG_DONTWAIT));
    CHECK(writev(pair[0], parts, 2));
    CHECK(recv(pair[1], buffer, 10, MSG_PEEK | MSG_WAITALL));
    CHECK(recv(pair[1], buffer, 4, MSG_PEEK));
    CHECK(recv(pair[1], buffer, 4, MSG_DONTWAIT));
    CHECK(memcmp(buffer, "0123", 4));
    CHECK(readv(pair[1], places, 2));
    CHECK(memcmp(buffer, "456", 3) + memcmp(buffer + 100, "789", 3));
    CHECK(recv(pair[1], buffer, 10, MSG_DONTWAIT | MSG_PEEK));
    CHECK(send(pair[0], "", 0, 0));
    CHECK(recv(pair[1], buffer, 0, MSG_DONTWAIT));
    CHECK(recvfrom(pair[1], buffer, 1, MSG_DONTWAIT, NULL, NULL));
    CHECK(close(pair[0]) + close(pair[1]));
}

static void without_waiting(void) {
    int listener = listening("127.0.0.1"), client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    Internet address = name_of(listener);
    long total = 0, received = 0, length;
    CHECK(fcntl(listener, F_SETFL, O_NONBLOCK));
    CHECK(accept(listener, NULL, NULL));
    CHECK(connect(client, (Address *)&address, sizeof address));
    print_events("connected", wait_for(client, POLLOUT));
    CHECK(option(client, SOL_SOCKET, SO_ERROR));
    CHECK(connect(client, (Address *)&address, sizeof address));
    CHECK(connect(client, (Address *)&address, sizeof address));
    print_events("to accept", wait_for(listener, POLLIN));
    int server = CHECK(accept(listener, NULL, NULL));
    CHECK(fcntl(server, F_GETFL) & O_NONBLOCK);
    while ((length = send(client, buffer, sizeof buffer, 0)) > 0)
        total += length;
    CHECK_THAT(errno == EAGAIN && total > 0);
    while (received < total && wait_for(server, POLLIN) && (length = recv(server, buffer, sizeof buffer, 0)) > 0)
        received += length;
    CHECK_THAT(received == total);
    print_events("room again", wait_for(client, POLLOUT));
    CHECK(close(client) + close(server) + close(listener));
}

static void refused(void) {
    /* A port that is taken, so that nobody else listens there, and without a listener. */
    int taken = bound(SOCK_STREAM, "127.0.0.1"), client = socket(AF_INET, SOCK_STREAM, 0);
    Internet address = name_of(taken);
    CHECK(connect(client, (Address *)&address, sizeof address));
    CHECK(option(client, SOL_SOCKET, SO_ERROR));
    CHECK(close(client));
    client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(connect(client, (Address *)&address, sizeof address));
    print_events("refused", wait_for(client, POLLIN | POLLOUT));
    CHECK(option(client, SOL_SOCKET, SO_ERROR) == ECONNREFUSED);
    CHECK(option(client, SOL_SOCKET, SO_ERROR));
    CHECK(close(client) + close(taken));
}

static void broken(void) {
    int pair[2];
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    connect_pair(pair);
    CHECK(setsockopt(pair[1], SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once));
    CHECK(close(pair[1]));
    CHECK(recv(pair[0], buffer, 10, 0));
    CHECK(recv(pair[0], buffer, 10, 0));
    CHECK(send(pair[0], "x", 1, 0));
    CHECK(close(pair[0]));
    /* What was not read is lost, and the peer hears of it. */
    connect_pair(pair);
    CHECK(send(pair[0], "unread", 6, 0));
    print_events("unread", wait_for(pair[1], POLLIN));
    CHECK(close(pair[1]));
    CHECK(recv(pair[0], buffer, 10, 0));
    CHECK(close(pair[0]));
    /* The peer is gone in order; the first byte to it is answered by a reset. */
    connect_pair(pair);
    CHECK(close(pair[1]));
    CHECK(recv(pair[0], buffer, 10, 0));
    CHECK(send(pair[0], "x", 1, 0));
    print_events("reset", wait_for(pair[0], 0));
    CHECK(send(pair[0], "x", 1, 0));
    CHECK(send(pair[0], "x", 1, MSG_NOSIGNAL));
    CHECK(close(pair[0]));
}

static void shut_down(void) {
    int pair[2], listener = listening("127.0.0.1");
    connect_pair(pair);
    CHECK(shutdown(pair[0], SHUT_RD));
    CHECK(recv(pair[0], buffer, 10, 0));
    CHECK(shutdown(pair[0], SHUT_RDWR));
    CHECK(send(pair[0], "x", 1, 0));
    CHECK(recv(pair[1], buffer, 10, 0));
    CHECK(shutdown(pair[0], 99));
    CHECK(close(pair[0]) + close(pair[1]));
    CHECK(shutdown(listener, SHUT_RDWR));
    CHECK(accept(listener, NULL, NULL));
    CHECK(close(listener));
    int idle = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(shutdown(idle, SHUT_WR));
    CHECK(close(idle));
}

static void used_ports(void) {
    int first = listening("127.0.0.1"), second = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    Internet address = name_of(first), foreign = internet("192.0.2.1", 0);
    CHECK(bind(second, (Address *)&address, sizeof address));
    CHECK(setsockopt(second, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    CHECK(bind(second, (Address *)&address, sizeof address));
    CHECK(bind(second, (Address *)&foreign, sizeof foreign));
    CHECK(close(first));
    CHECK(bind(second, (Address *)&address, sizeof address));
    CHECK(bind(second, (Address *)&address, sizeof address));
    CHECK(listen(second, 1));
    int client = CHECK(connected(second)), server = CHECK(accept(second, NULL, NULL));
    /* The server's end closes first; its port is free for the next one all the same. */
    CHECK(close(server));
    CHECK(recv(client, buffer, 1, 0));
    CHECK(close(client) + close(second));
    second = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(setsockopt(second, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    CHECK(bind(second, (Address *)&address, sizeof address));
    CHECK(listen(second, 1));
    CHECK(close(second));
}

static void errors(void) {
    int idle = socket(AF_INET, SOCK_STREAM, 0), listener = listening("127.0.0.1"), pair[2];
    int file = open("/dev/null", O_RDWR);
    Internet address = name_of(listener), other_family = address;
    socklen_t length = sizeof address;
    other_family.sin_family = AF_UNIX;
    connect_pair(pair);
    CHECK(getpeername(idle, (Address *)&address, &length));
    CHECK(recv(idle, buffer, 1, 0));
    CHECK(send(idle, "x", 1, 0));
    CHECK(accept(idle, NULL, NULL));
    CHECK(accept(pair[0], NULL, NULL));
    CHECK(accept4(listener, NULL, NULL, 99));
    CHECK(connect(pair[0], (Address *)&address, sizeof address));
    CHECK(connect(listener, (Address *)&address, sizeof address));
    CHECK(connect(idle, (Address *)&address, 3));
    CHECK(connect(idle, (Address *)&other_family, sizeof other_family));
    CHECK(bind(idle, (Address *)&address, 3));
    CHECK(listen(pair[0], 1));
    CHECK(socket(99, SOCK_STREAM, 0));
    CHECK(socket(AF_INET, 99, 0));
    CHECK(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
    CHECK(bind(file, (Address *)&address, sizeof address));
    CHECK(listen(file, 1));
    CHECK(accept(file, NULL, NULL));
    CHECK(connect(file, (Address *)&address, sizeof address));
    CHECK(send(file, "x", 1, 0));
    CHECK(shutdown(file, SHUT_WR));
    CHECK(getsockname(file, (Address *)&address, &length));
    CHECK(connect(999, (Address *)&address, sizeof address));
    CHECK(send(999, "x", 1, 0));
    CHECK(lseek(pair[0], 0, SEEK_SET));
    CHECK(pread(pair[0], buffer, 1, 0));
    CHECK(close(idle) + close(listener) + close(pair[0]) + close(pair[1]) + close(file));
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    RUN(over_loopback);
    RUN(over_the_own_address);
    RUN(over_any_address);
    RUN(many_at_once);
    RUN(much_data);
    RUN(peeking);
    RUN(without_waiting);
    RUN(refused);
    RUN(broken);
    RUN(shut_down);
    RUN(used_ports);
    RUN(errors);
    return 0;
}
