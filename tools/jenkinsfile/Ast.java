import groovy.json.JsonOutput;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.codehaus.groovy.ast.ASTNode;
import org.codehaus.groovy.ast.expr.BinaryExpression;
import org.codehaus.groovy.ast.expr.ClosureExpression;
import org.codehaus.groovy.ast.expr.ConstantExpression;
import org.codehaus.groovy.ast.expr.Expression;
import org.codehaus.groovy.ast.expr.ListExpression;
import org.codehaus.groovy.ast.expr.MapEntryExpression;
import org.codehaus.groovy.ast.expr.MapExpression;
import org.codehaus.groovy.ast.expr.MethodCallExpression;
import org.codehaus.groovy.ast.expr.TupleExpression;
import org.codehaus.groovy.ast.stmt.BlockStatement;
import org.codehaus.groovy.ast.stmt.ExpressionStatement;
import org.codehaus.groovy.ast.stmt.ReturnStatement;
import org.codehaus.groovy.ast.stmt.Statement;
import org.codehaus.groovy.control.CompilerConfiguration;
import org.codehaus.groovy.control.ErrorCollector;
import org.codehaus.groovy.control.SourceUnit;

/**
 * Prints the syntax tree of the Jenkinsfile on standard input as JSON, as the Groovy that Jenkins bundles parses it.
 *
 * A call is {"call": its name, "line": n, "arguments": [...], "block": [...]}, where the block is its closure, or null. An
 * assignment is a call of "=" with a name and a value. Texts, numbers, lists and maps are themselves. Anything else is
 * {"code": its text, "line": n}, of which a test may only say that it is there.
 */
final class Ast {
    public static void main(String[] arguments) throws Exception {
        String text = new String(System.in.readAllBytes(), StandardCharsets.UTF_8);
        CompilerConfiguration configuration = new CompilerConfiguration();
        SourceUnit unit = new SourceUnit("Jenkinsfile", text, configuration, null, new ErrorCollector(configuration));
        unit.parse();
        unit.completePhase();
        unit.convert();
        System.out.println(JsonOutput.toJson(statements(unit.getAST().getStatementBlock())));
    }

    private static List<Object> statements(Statement block) {
        List<Object> found = new ArrayList<>();
        if (block instanceof BlockStatement) {
            for (Statement one : ((BlockStatement) block).getStatements()) {
                found.addAll(statements(one));
            }
        } else if (block instanceof ExpressionStatement) {
            found.add(value(((ExpressionStatement) block).getExpression()));
        } else if (block instanceof ReturnStatement) {
            found.add(value(((ReturnStatement) block).getExpression()));
        } else {
            found.add(code(block));
        }
        return found;
    }

    private static Object value(Expression expression) {
        if (expression instanceof MethodCallExpression) {
            MethodCallExpression call = (MethodCallExpression) expression;
            return call.isImplicitThis() ? call(call) : code(expression);
        }
        if (expression instanceof BinaryExpression && "=".equals(((BinaryExpression) expression).getOperation().getText())) {
            BinaryExpression assignment = (BinaryExpression) expression;
            List<Object> parts = new ArrayList<>();
            parts.add(assignment.getLeftExpression().getText());
            parts.add(value(assignment.getRightExpression()));
            return call("=", assignment, parts, null);
        }
        if (expression instanceof ConstantExpression) {
            return ((ConstantExpression) expression).getValue();
        }
        if (expression instanceof ListExpression) {
            List<Object> items = new ArrayList<>();
            ((ListExpression) expression).getExpressions().forEach(item -> items.add(value(item)));
            return items;
        }
        if (expression instanceof MapExpression) {
            Map<String, Object> entries = new LinkedHashMap<>();
            for (MapEntryExpression entry : ((MapExpression) expression).getMapEntryExpressions()) {
                entries.put(String.valueOf(value(entry.getKeyExpression())), value(entry.getValueExpression()));
            }
            return entries;
        }
        return code(expression);
    }

    private static Map<String, Object> call(MethodCallExpression call) {
        List<Object> values = new ArrayList<>();
        Object block = null;
        for (Expression argument : ((TupleExpression) call.getArguments()).getExpressions()) {
            if (argument instanceof ClosureExpression) {
                block = statements(((ClosureExpression) argument).getCode());
            } else {
                values.add(value(argument));
            }
        }
        return call(call.getMethodAsString(), call, values, block);
    }

    private static Map<String, Object> call(String name, ASTNode node, List<Object> arguments, Object block) {
        Map<String, Object> said = new LinkedHashMap<>();
        said.put("call", name);
        said.put("line", node.getLineNumber());
        said.put("arguments", arguments);
        said.put("block", block);
        return said;
    }

    private static Map<String, Object> code(ASTNode node) {
        Map<String, Object> said = new LinkedHashMap<>();
        said.put("line", node.getLineNumber());
        said.put("code", node.getText());
        return said;
    }
}
