//! Addresses, names, ports, and networks.

use crate::cases;

cases! {
    an_address_of_the_default_network: "docker exec $plain ip -4 -o addr show eth0 | sed 's/[0-9]* *brd.*//' | awk '{ print $2, $3 }'; docker exec $plain ip -4 addr show lo | grep -c 127.0.0.1/8";
    interfaces: "docker exec $plain ls /sys/class/net; docker exec $plain sh -c 'cat /sys/class/net/eth0/mtu /sys/class/net/eth0/operstate'";
    the_address_docker_says: "[[ $(docker exec $plain ip -4 -o addr show eth0 | grep -o '172[0-9./]*' | head -n 1) == $(docker inspect -f '{{.NetworkSettings.IPAddress}}/{{.NetworkSettings.IPPrefixLen}}' $plain) ]] && echo same";
    the_mac_docker_says: "[[ $(docker exec $plain cat /sys/class/net/eth0/address) == $(docker inspect -f '{{.NetworkSettings.MacAddress}}' $plain) ]] && echo same";
    the_default_route: "docker exec $plain ip route | sed 's/ src.*//; s/ *$//'";
    a_chosen_mac: "docker exec $rich cat /sys/class/net/eth0/address";
    the_loop_interface_works: "docker exec $plain ping -c 1 -W 5 127.0.0.1 | grep -c '1 packets received'";
    the_gateway_answers: "docker exec $plain sh -c 'ping -c 1 -W 5 $(ip route | sed -n \"s/default via \\([0-9.]*\\).*/\\1/p\")' | grep -c '1 packets received'";
    another_container_answers: "docker exec $plain wget -qO- http://$(docker inspect -f '{{.NetworkSettings.IPAddress}}' $server)/";
    the_host_reaches_it: "curl -sS http://$(docker inspect -f '{{.NetworkSettings.IPAddress}}' $server)/";
    runc_reaches_it: "command docker run --rm --runtime runc busybox wget -qO- http://$(docker inspect -f '{{.NetworkSettings.IPAddress}}' $server)/";
    a_refused_port: "docker exec $plain wget -qO- http://$(docker inspect -f '{{.NetworkSettings.IPAddress}}' $server):81/ 2>&1 | grep -o 'Connection refused'";
    a_name_on_a_user_s_network: "docker run --rm --network shared busybox wget -qO- http://$web/";
    an_alias_on_a_user_s_network: "docker run --rm --network shared busybox wget -qO- http://alias-$web/";
    its_own_name: "docker exec $web wget -qO- http://web/; docker exec $web wget -qO- http://$web/";
    a_name_that_is_unknown: "docker exec $web nslookup nowhere.invalid 2>&1 | grep -c -i -E \"can't|NXDOMAIN|SERVFAIL\" | sed 's/[1-9]/some/'";
    names_for_runc: "command docker run --rm --runtime runc --network shared busybox wget -qO- http://$web/";
    names_over_tcp: "docker run --rm --network shared services dig +tcp +short $web | grep -c ^172";
    resolv_conf_of_a_user_s_network: "docker exec $web cat /etc/resolv.conf";
    hosts_of_a_container: "docker exec $plain sed 's/^172[0-9.]*/IP/' /etc/hosts";
    data_both_ways: "docker exec $web sh -c 'head -c 300000 /dev/urandom >/tmp/r; nc -w 5 127.0.0.1 7 </tmp/r | head -c 300000 | cmp - /tmp/r && echo same'";
    a_published_port: "docker run -d --name $n -p 127.0.0.1:18080:80 busybox httpd -f -h /var/www >/dev/null; until_ok curl -sf http://127.0.0.1:18080/; curl -s http://127.0.0.1:18080/; docker port $n";
    a_published_port_of_udp: "docker run -d --name $n -p 127.0.0.1:18053:53/udp debian python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"\", 53)); [s.sendto(*s.recvfrom(9)) for _ in iter(int, 1)]' >/dev/null
        until_ok eval 'echo ping | socat -t 2 - UDP:127.0.0.1:18053 | grep ping'; echo ping | socat -t 5 - UDP:127.0.0.1:18053";
    ports_that_docker_chooses: "docker run -d --name $n -P --expose 80 busybox httpd -f -h /var/www >/dev/null; p=$(docker port $n 80/tcp | head -n 1 | sed 's/.*://'); until_ok curl -sf http://127.0.0.1:$p/; curl -s http://127.0.0.1:$p/";
    no_network: "docker run --rm --network none busybox sh -c 'ls /sys/class/net; ip route; ip -4 -o addr | awk \"{ print \\$2, \\$4 }\"'";
    an_internal_network: "docker network create --internal --subnet 10.91.0.0/24 $n >/dev/null; docker run --rm --network $n busybox sh -c 'ip -4 -o addr show eth0 | awk \"{ print \\$4 }\"; ip route | sed \"s/ *$//\"; ping -c 1 -W 1 192.0.2.1 2>&1 | head -n 1 | cut -d: -f 1'; docker network rm $n";
    addresses_of_ipv6_on_a_network_without: "docker exec $plain ip -6 -o addr; docker exec $plain sh -c '[ -e /proc/net/if_inet6 ] && wc -l </proc/net/if_inet6'";
    chosen_addresses: "docker network create --ipv6 --subnet 10.92.0.0/24 --subnet fd00:92::/64 $n >/dev/null
        docker run --rm --network $n --ip 10.92.0.77 --ip6 fd00:92::77 busybox sh -c 'until ! ip -6 addr show eth0 | grep -q tentative; do sleep 0.2; done; ip -o addr show eth0 scope global | awk \"{ print \\$3, \\$4 }\"; ip -6 route | grep default | cut -d\" \" -f 1-5'; docker network rm $n";
    ipv6_between_containers: "docker network create --ipv6 --subnet 10.93.0.0/24 --subnet fd00:93::/64 $n >/dev/null
        docker run -d --name $n --network $n --ip6 fd00:93::80 busybox httpd -f -h /var/www >/dev/null
        docker run --rm --network $n busybox sh -c 'for i in 1 2 3 4 5 6 7 8 9; do wget -qO- \"http://[fd00:93::80]/\" 2>/dev/null && break; sleep 1; done'
        curl -sS 'http://[fd00:93::80]/'; docker rm -f $n >/dev/null; docker network rm $n";
    two_networks: "docker network create --subnet 10.94.0.0/24 $n-a >/dev/null; docker network create --subnet 10.95.0.0/24 $n-b >/dev/null
        docker create --name $n --network $n-a busybox sh -c 'ip -4 -o addr | awk \"{ print \\$2, \\$4 }\"; ip route | sed \"s/ *$//\" | sort' >/dev/null
        docker network connect $n-b $n; docker start -a $n; docker rm $n >/dev/null; docker network rm $n-a $n-b";
    a_network_s_mtu: "docker network create --opt com.docker.network.driver.mtu=1400 $n >/dev/null; docker run --rm --network $n busybox cat /sys/class/net/eth0/mtu; docker network rm $n";
    a_link: "docker run --rm --link $server:linked busybox sh -c 'wget -qO- http://linked/; grep -c linked /etc/hosts; env | grep -c ^LINKED_'";
    chosen_name_servers: "docker run --rm --dns 192.0.2.1 --dns 192.0.2.2 --dns-search a.b --dns-opt timeout:1 busybox cat /etc/resolv.conf";
    names_of_hosts_that_are_added: "docker run --rm --add-host h:192.0.2.7 --add-host six:2001:db8::1 busybox sh -c 'grep -E \"h|six\" /etc/hosts | grep -v -E \"local|ip6\" | head -n 2'";
    ports_below_1024_for_users: "docker run --rm -u user busybox sh -c 'timeout 2 httpd -f -p 80 -h /var/www; echo $?'; true";
    the_network_of_the_host_for_ping: "docker run --rm -u user busybox cat /proc/sys/net/ipv4/ping_group_range /proc/sys/net/ipv4/ip_unprivileged_port_start";
    a_host_name_of_the_kind_docker_chooses: "docker run --rm busybox hostname | wc -c; docker run --rm --name $n busybox sh -c '[ $(hostname) = $HOSTNAME ] && echo same'";
    sockets_of_python: "docker exec $deb python3 -c 'import socket; s = socket.socket(); s.bind((\"\", 0)); s.listen(); c = socket.create_connection(s.getsockname()); a, _ = s.accept(); c.sendall(b\"x\" * 100); print(len(a.recv(200)))'";
    a_network_that_it_leaves: "docker network create $n >/dev/null; docker run -d --name $n --network $n busybox sleep 1000 >/dev/null; docker rm -f $n >/dev/null; docker network rm $n";
}
