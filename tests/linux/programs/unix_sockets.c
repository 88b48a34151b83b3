/* Sockets of the AF_UNIX family: pairs, names in the file system, abstract names. */
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "events.h"

typedef struct sockaddr Address;
typedef struct sockaddr_un Local;

static char buffer[1 << 17];

/* A name in the file system, or with '@' in front an abstract one; its length goes to `length`. */
static Local local(const char *name, socklen_t *length) {
    Local address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, name);
    *length = (socklen_t)(offsetof(Local, sun_path) + strlen(name) + (name[0] != '@'));
    if (name[0] == '@')
        address.sun_path[0] = 0;
    return address;
}

static int bind_to(int socket, const char *name) {
    socklen_t length;
    Local address = local(name, &length);
    return bind(socket, (Address *)&address, length);
}

static int connect_to(int socket, const char *name) {
    socklen_t length;
    Local address = local(name, &length);
    return connect(socket, (Address *)&address, length);
}

static void pairs(void) {
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    CHECK(fcntl(pair[0], F_GETFD));
    CHECK(send(pair[0], "hello", 5, 0));
    CHECK(write(pair[0], "world", 5));
    CHECK(recv(pair[1], buffer, 3, MSG_PEEK));
    CHECK(recv(pair[1], buffer, 100, 0));
    CHECK(recv(pair[1], buffer, 100, MSG_DONTWAIT));
    CHECK(write(pair[1], "back", 4));
    CHECK(read(pair[0], buffer, 100));
    print_events("idle", wait_for(pair[0], POLLIN | POLLOUT));
    CHECK(shutdown(pair[0], SHUT_WR));
    CHECK(send(pair[0], "x", 1, 0));
    print_events("half closed", wait_for(pair[1], POLLIN | POLLRDHUP));
    CHECK(recv(pair[1], buffer, 100, 0));
    CHECK(send(pair[1], "last", 4, 0));
    CHECK(close(pair[1]));
    print_events("closed", wait_for(pair[0], POLLIN | POLLOUT | POLLRDHUP));
    CHECK(recv(pair[0], buffer, 100, 0));
    CHECK(recv(pair[0], buffer, 100, 0));
    CHECK(close(pair[0]));
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK(send(pair[0], "unread", 6, 0));
    CHECK(close(pair[1]));
    CHECK(recv(pair[0], buffer, 1, 0));
    CHECK(send(pair[0], "x", 1, 0));
    CHECK(close(pair[0]));
    CHECK(socketpair(AF_UNIX, 99, 0, pair));
    CHECK(socketpair(AF_INET, SOCK_STREAM, 0, pair));
}

static void streams(const char *name) {
    int listener = CHECK(socket(AF_UNIX, SOCK_STREAM, 0)), client = socket(AF_UNIX, SOCK_STREAM, 0);
    int other = socket(AF_UNIX, SOCK_STREAM, 0);
    Local address;
    struct ucred credentials = {0};
    socklen_t length = sizeof address;
    CHECK(connect_to(client, name));
    CHECK(bind_to(listener, name));
    CHECK(connect_to(client, name));
    CHECK(bind_to(other, name));
    CHECK(bind_to(listener, name));
    CHECK(listen(listener, 5));
    CHECK(getsockname(listener, (Address *)&address, &length));
    CHECK(length);
    CHECK_TEXT(address.sun_path[0] != 0 ? address.sun_path : address.sun_path + 1);
    CHECK(connect_to(client, name));
    CHECK(connect_to(client, name));
    print_events("to accept", wait_for(listener, POLLIN));
    length = sizeof address;
    int server = CHECK(accept4(listener, (Address *)&address, &length, SOCK_NONBLOCK));
    CHECK(length);
    CHECK(recv(server, buffer, 1, 0));
    length = sizeof address;
    CHECK(getpeername(client, (Address *)&address, &length));
    CHECK_TEXT(address.sun_path[0] != 0 ? address.sun_path : address.sun_path + 1);
    length = sizeof address;
    CHECK(getsockname(client, (Address *)&address, &length));
    CHECK(length);
    length = sizeof credentials;
    CHECK(getsockopt(server, SOL_SOCKET, SO_PEERCRED, &credentials, &length));
    CHECK_THAT(credentials.pid == getpid() && credentials.uid == getuid());
    CHECK(send(client, "question", 8, 0));
    CHECK(recv(server, buffer, 100, 0));
    CHECK(send(server, "answer", 6, 0));
    CHECK(recv(client, buffer, 100, 0));
    CHECK(close(server));
    CHECK(recv(client, buffer, 100, 0));
    CHECK(close(client));
    CHECK(fcntl(listener, F_SETFL, O_NONBLOCK));
    CHECK(accept(listener, NULL, NULL));
    CHECK(close(listener));
    CHECK(connect_to(other, name));
    CHECK(close(other));
}

static void named_streams(void) {
    struct stat status;
    streams("/tmp/unix-sockets/stream");
    CHECK(stat("stream", &status));
    CHECK_THAT(S_ISSOCK(status.st_mode));
    CHECK(open("stream", O_RDWR));
    CHECK(unlink("stream"));
    streams("relative");
    CHECK(unlink("relative"));
}

static void abstract_streams(void) {
    streams("@ftvmm-check");
}

static void datagrams(void) {
    int server = CHECK(socket(AF_UNIX, SOCK_DGRAM, 0)), client = socket(AF_UNIX, SOCK_DGRAM, 0);
    socklen_t length, from_length;
    Local address = local("server", &length), from = {0};
    CHECK(sendto(client, "x", 1, 0, (Address *)&address, length));
    CHECK(bind_to(server, "server"));
    CHECK(sendto(client, "one", 3, 0, (Address *)&address, length));
    from_length = sizeof from;
    CHECK(recvfrom(server, buffer, 100, 0, (Address *)&from, &from_length));
    CHECK(from_length);
    CHECK(bind_to(client, "client"));
    CHECK(connect_to(client, "server"));
    CHECK(send(client, "two", 3, 0));
    CHECK(send(client, "", 0, 0));
    CHECK(send(client, "number four", 11, 0));
    from_length = sizeof from;
    CHECK(recvfrom(server, buffer, 100, 0, (Address *)&from, &from_length));
    CHECK_TEXT(from.sun_path);
    CHECK(recv(server, buffer, 100, 0));
    CHECK(recv(server, buffer, 6, 0));
    CHECK(recv(server, buffer, 100, MSG_DONTWAIT));
    CHECK(sendto(server, "back", 4, 0, (Address *)&from, from_length));
    CHECK(recv(client, buffer, 100, 0));
    int stream = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(connect_to(stream, "server"));
    CHECK(close(server));
    CHECK(send(client, "x", 1, 0));
    CHECK(close(client) + close(stream));
    CHECK(unlink("server") + unlink("client"));
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    CHECK(send(pair[0], "12345", 5, 0));
    CHECK(recv(pair[1], buffer, 2, MSG_TRUNC));
    CHECK(recv(pair[1], buffer, 2, MSG_DONTWAIT));
    CHECK(close(pair[0]) + close(pair[1]));
}

static void packets(void) {
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    CHECK(send(pair[0], "one", 3, 0));
    CHECK(send(pair[0], "two two", 7, 0));
    CHECK(recv(pair[1], buffer, 2, 0));
    CHECK(recv(pair[1], buffer, 100, 0));
    CHECK(close(pair[0]));
    CHECK(recv(pair[1], buffer, 100, 0));
    CHECK(close(pair[1]));
}

static int one_way[2];

static void *send_much(void *unused) {
    for (int i = 0; i < 8; i++)
        for (size_t sent = 0; sent < sizeof buffer;) {
            ssize_t length = send(one_way[0], buffer + sent, sizeof buffer - sent, 0);
            if (length < 0)
                return unused;
            sent += (size_t)length;
        }
    close(one_way[0]);
    return unused;
}

static void much_data(void) {
    pthread_t thread;
    static char place[5000];
    long total = 0, length;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, one_way));
    CHECK_CODE(pthread_create(&thread, NULL, send_much, NULL));
    while ((length = recv(one_way[1], place, sizeof place, 0)) > 0)
        total += length;
    CHECK(total);
    CHECK_CODE(pthread_join(thread, NULL));
    CHECK(close(one_way[1]));
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, one_way));
    for (total = 0; (length = send(one_way[0], buffer, 1000, 0)) > 0;)
        total += length;
    CHECK_THAT(errno == EAGAIN && total > 1000);
    while (total > 0 && (length = recv(one_way[1], place, sizeof place, 0)) > 0)
        total -= length;
    CHECK(total);
    CHECK(recv(one_way[1], place, 1, 0));
    CHECK(send(one_way[0], buffer, 1000, 0));
    CHECK(ioctl(one_way[1], FIONREAD, &length));
    CHECK((int)length);
    CHECK(close(one_way[0]) + close(one_way[1]));
}

static void errors(void) {
    int idle = socket(AF_UNIX, SOCK_STREAM, 0);
    socklen_t length;
    Local address = local("missing/name", &length);
    CHECK(bind(idle, (Address *)&address, length));
    CHECK(connect_to(idle, "missing"));
    write_file("file", "");
    CHECK(connect_to(idle, "file"));
    CHECK(bind_to(idle, "file"));
    CHECK(bind(idle, (Address *)&address, 1));
    CHECK(listen(idle, 1));
    CHECK(accept(idle, NULL, NULL));
    CHECK(send(idle, "x", 1, 0));
    CHECK(recv(idle, buffer, 1, 0));
    CHECK(shutdown(idle, SHUT_WR));
    CHECK(getpeername(idle, (Address *)&address, &length));
    CHECK(socket(AF_UNIX, SOCK_STREAM, 99));
    CHECK(close(idle) + unlink("file"));
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    enter_directory("/tmp/unix-sockets");
    RUN(pairs);
    RUN(named_streams);
    RUN(abstract_streams);
    RUN(datagrams);
    RUN(packets);
    RUN(much_data);
    RUN(errors);
    return 0;
}
