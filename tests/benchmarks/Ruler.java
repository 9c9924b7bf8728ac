import com.sun.management.OperatingSystemMXBean;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import software.amazon.event.ruler.Machine;

/**
 * The peer of `patterns.py`: event-ruler on the same events and rules, in one thread.
 *
 * Run from its source: `java -cp "jars/*" Ruler.java RULES EVENTS`. Both files hold a JSON text a line. Each line of
 * standard input is a number of seconds: all events are held against the rules again and again for so long, and the
 * answer is one line of events, wall and processor seconds, and matches of one pass over the events. Time is taken in
 * here, so that neither the start nor the pipe is in it; who asks warms the machine up first.
 */
public class Ruler {
    public static void main(String[] arguments) throws Exception {
        List<String> rules = Files.readAllLines(Path.of(arguments[0]));
        List<String> events = Files.readAllLines(Path.of(arguments[1]));
        Machine machine = Machine.builder().build();
        for (int number = 0; number < rules.size(); number++) {
            machine.addRule(String.valueOf(number), rules.get(number));
        }
        BufferedReader asked = new BufferedReader(new InputStreamReader(System.in));
        for (String line = asked.readLine(); line != null; line = asked.readLine()) {
            System.out.println(turn(machine, events, Double.parseDouble(line)));
        }
    }

    private static String turn(Machine machine, List<String> events, double seconds) throws Exception {
        OperatingSystemMXBean system = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        long passes = 0;
        long matches = 0;
        long cpuNs = system.getProcessCpuTime(); // with its collector of garbage
        long beganNs = System.nanoTime();
        long endNs = beganNs + (long) (seconds * 1e9);
        do {
            for (String event : events) {
                matches += machine.rulesForJSONEvent(event).size();
            }
            passes++;
        } while (System.nanoTime() < endNs);
        double wallS = (System.nanoTime() - beganNs) / 1e9;
        double cpuS = (system.getProcessCpuTime() - cpuNs) / 1e9;
        return String.format(Locale.ROOT, "%d %f %f %d", passes * events.size(), wallS, cpuS, matches / passes);
    }
}
