# Talks TCP and UDP with the host.
#   serve PORT             echoes what arrives, whichever way
#   connect HOST PORT N    opens N connections, a hundred at a time, and hears its echo on each
#   datagrams HOST PORT    hears the echo of datagrams of many sizes
#   send HOST PORT MIB     sends that much, and says its MD5 sum
#   receive HOST PORT      the MD5 sum of what comes until the end
import hashlib
import os
import selectors
import socket
import sys

SIZES = [1, 100, 1400, 4000, 8900, 20000, 60000]


def serve(port):
    wait = selectors.DefaultSelector()
    for family, any_address in (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"):
        for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
            listener = socket.socket(family, kind)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((any_address, int(port)))
            if kind == socket.SOCK_STREAM:
                listener.listen(1024)
            wait.register(listener, selectors.EVENT_READ, kind)
    print("serving", flush=True)
    while True:
        for key, _ in wait.select():
            if key.data == socket.SOCK_DGRAM:
                datagram, peer = key.fileobj.recvfrom(65536)
                key.fileobj.sendto(datagram, peer)
            elif key.data == socket.SOCK_STREAM:
                connection, _ = key.fileobj.accept()
                wait.register(connection, selectors.EVENT_READ)
            elif data := key.fileobj.recv(65536):
                key.fileobj.sendall(data)
            else:
                wait.unregister(key.fileobj)
                key.fileobj.close()


def begin(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.setblocking(False)
    connection.connect_ex((host, port))
    # A send waits until it is connected.
    connection.settimeout(20)
    return connection


def connect(host, port, count):
    for start in range(0, int(count), 100):
        numbers = range(start, min(start + 100, int(count)))
        connections = [begin(host, int(port)) for _ in numbers]
        for number, connection in zip(numbers, connections):
            connection.sendall(b"connection %d\n" % number)
        for number, connection in zip(numbers, connections):
            line = connection.makefile("rb").readline()
            assert line == b"connection %d\n" % number, line
            connection.close()
    print("connected", count)


def datagrams(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    echo = socket.socket(family, socket.SOCK_DGRAM)
    echo.connect((host, int(port)))
    echo.settimeout(20)
    for size in SIZES:
        datagram = os.urandom(size)
        echo.send(datagram)
        assert echo.recv(65536) == datagram, size
    print("echoed", len(SIZES))


def send(host, port, mib):
    page = os.urandom(1 << 20)
    sum_of_all = hashlib.md5()
    with socket.create_connection((host, int(port)), 60) as connection:
        for i in range(int(mib)):
            part = page[i * 7 :] + page[: i * 7]
            sum_of_all.update(part)
            connection.sendall(part)
    print(sum_of_all.hexdigest())


def receive(host, port):
    sum_of_all = hashlib.md5()
    with socket.create_connection((host, int(port)), 60) as connection:
        while part := connection.recv(1 << 20):
            sum_of_all.update(part)
    print(sum_of_all.hexdigest())


globals()[sys.argv[1]](*sys.argv[2:])
